"""What evaluation needs at the sizes of PASCAL-5i and COCO-20i: passes, bytes, before and after.

    python experiments/speed/evaluation_needs.py [--images=5000] [--json=FILE]

Nothing is embedded: images are drawn by the statistics below, episodes by the protocol,
and the plan is carried out with sizes alone, as it is before every evaluation. Shapes are those of
a ResNet-50 at 473 pixels, counted by JAX without computing anything. "before" is the way of 0.1.0:
every image's features of blocks 3, 4 and 5 in float32, and block 5 of every support's foreground,
none ever dropped; beyond 8 GB on disk, whatever that took.

Areas are drawn log-uniformly between 2048 pixels and half of an image of 640 x 480 (COCO), or of
500 x 375 (PASCAL); an image shows one class of the fold, and with a third of the chance another.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.episodes import draw_evaluation, episode_lists
from apanet_jax.evaluation.embedding import (
    Embedder,
    Images,
    estimated_positions,
    query_bytes,
    support_bytes,
)
from apanet_jax.evaluation.feature_store import BEYOND, DISK, MEMORY, Ledger
from apanet_jax.evaluation.plan import Job, Plan, Sizes, needs
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.models.resnet import RESNET50, ResNet
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import Parser
from apanet_jax.runtime.programs import Programs
from experiments import harness
from experiments.harness import Row

SHOTS = (1, 5)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A split of which only areas and sizes are known.

    Attributes:
      areas: pixels of each class in each image.
      sizes: height and width of each.
    """

    areas: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.areas)


class Case(NamedTuple):
    """A data set's fold.

    Attributes:
      name: of the data set.
      images: of the fold's test list.
      classes: of the fold.
      episodes: at each number of shots.
      size: height and width of an image.
    """

    name: str
    images: int
    classes: int
    episodes: int
    size: tuple[int, int]


def drawn(case: Case) -> Drawn:
    """Returns the images of a case."""
    rng = np.random.default_rng(0)
    areas = np.zeros((case.images, case.classes + 1), np.int64)
    half = case.size[0] * case.size[1] / 2
    for row in areas:
        classes = 1 + rng.permutation(case.classes)[: 1 + (rng.random() < 1 / 3)]
        row[classes] = np.exp(rng.uniform(np.log(2048), np.log(half), len(classes)))
    return Drawn(areas, np.tile(case.size, (case.images, 1)))


def measure(case: Case, budgets: Sequence[float]) -> Iterator[Row]:
    """Returns a row for before, and for each type that features are stored in."""
    split = drawn(case)
    lists = episode_lists(split, range(1, case.classes + 1), shot=max(SHOTS))
    episodes = [
        draw_evaluation(lists, number, seed=321, shot=shot)
        for shot, number in itertools.product(SHOTS, range(case.episodes))
    ]
    images = {i for e in episodes for i in (e.query, *e.supports)}
    supports = {(s, e.class_id) for e in episodes for s in e.supports}
    common = {"data": case.name, "episodes": len(episodes), "images": len(images)}
    network, size = Network(ResNet(RESNET50), APANet()), 473
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    parameters = jax.eval_shape(network.backbone.init, jax.random.key(0), image)["params"]
    for stored in ("computed", "bfloat16"):
        embedder = Embedder(
            network,
            parameters,
            data_mesh(1),
            Images(split, size, 8, 0),
            batch_size=8,
            stored=stored,
            programs=Programs(),
        )
        query, support, positions = embedder.shapes()
        if stored == "computed":
            whole = positions * 4 * sum(network_channels())
            foreground = sum(_foreground(split, key, positions) for key in supports)
            before = whole * len(images) + foreground * 4 * network_channels()[-1]
            yield common | {
                "way": "before",
                "passes": len(images),
                "supports": len(supports),
                "bytes": [0, min(before, budgets[1]), max(before - budgets[1], 0.0), 0],
            }
        sizes = Sizes(
            query_bytes(query),
            lambda i, c, s=support, p=positions: support_bytes(
                s, min(estimated_positions(split, i, c, p), p)
            ),
        )
        if stored == "computed":
            of_all = sizes.query * len({e.query for e in episodes})
            common["bytes_of_all"] = of_all + sum(sizes.support(*key) for key in supports)
        start = time.perf_counter()
        jobs = [Job(number, one) for number, one in enumerate(episodes)]
        plan = Plan(jobs, sizes, sum(budgets), 8)
        found = needs(plan, sizes, Ledger(tuple(budgets)))
        yield common | {
            "way": f"planned, {'float32' if stored == 'computed' else stored}",
            "passes": found.passes,
            "supports": found.supports,
            "windows": found.windows,
            "bytes": list(found.bytes),
            "seconds_to_plan": time.perf_counter() - start,
        }


def network_channels() -> tuple[int, int, int]:
    """Returns the channels of a ResNet's blocks 3, 4 and 5."""
    return 512, 1024, 2048


def _foreground(split: Drawn, key: tuple[int, int], positions: int) -> float:
    return min(estimated_positions(split, *key, positions), positions)


def markdown(rows: Sequence[Row]) -> str:
    """Returns a line a row."""
    heads = ("data", "episodes, images", "way", "windows", "images passed", "supports")
    lines = [
        (
            row["data"],
            f"{row['episodes']:,}, {row['images']:,}",
            row["way"],
            row.get("windows", "-"),
            f"{row['passes']:,}",
            f"{row['supports']:,}",
            f"{(row['bytes'][MEMORY] + row['bytes'][BEYOND]) / 1e9:.1f}",
            f"{row['bytes'][DISK] / 1e9:.1f}",
        )
        for row in rows
    ]
    return harness.table((*heads, "memory, GB", "disk, GB"), lines)


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    parser.add_argument("--images", type=harness.whole(40), default=5000, help="of COCO (5000)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    given = arguments().parse_args(argv)
    cases = (
        Case("PASCAL-5i", 450, 5, 5000, (375, 500)),
        Case("COCO-20i", given.images, 20, 20_000, (480, 640)),
    )
    budgets = (0.0, 8e9, 30e9)
    rows = [row for case in cases for row in measure(case, budgets)]
    harness.publish(harness.environment() | {"rows": rows}, markdown(rows), given.json)


if __name__ == "__main__":
    main()
