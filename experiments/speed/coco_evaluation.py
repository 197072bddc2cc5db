"""COCO-20i scored within budgets, at reduced image size: what is held, passed, counted, and spent.

    python experiments/speed/coco_evaluation.py [--images=5000] [--episodes=20000] [--size=97]
        [--shots=1,5] [--comparisons=conv,fem] [--stored=computed] [--ways=memory,disk,share,none]
        [--workdir=FOLDER] [--json=FILE]

Draws a COCO 2014 tree of --images images in val2014 (scenes of the quickstart's kind, each turned
and mirrored in eight ways), each with an object of a class that is novel in fold 0 and up to three
others of all 80 classes, and prepares it. A head on EfficientNet-Lite0 is trained for a few steps,
so that it finds something, and then scored on --episodes episodes at each of --shots, by
`apanet_jax.main` in a process of its own for each row. The ways: features in "memory", on "disk",
within the "share" of all their bytes that 8 GB and 30 GB are of COCO's at 473 pixels with a
ResNet-50 (`evaluation_needs.py`), within no budget ("none"); within that share on 8 simulated
"devices", or after it was "killed" in the middle; and "every" episode embedded, of which it scores
the first --sample. Disk is what lies in the features' folder, looked at every half second, and
memory the peak of the process. A row says how many pixels its episodes count differently from the
first way of the same stored type, and that one from the first of all; and in how many episodes some
pixels are found and others not, for a head that finds everything, or nothing, is counted alike by
any way.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.coco import CLASSES, FOLDS
from apanet_jax.data.sources.synthetic import CLASS_NAMES, SyntheticSource
from apanet_jax.evaluation.feature_store import BEYOND, DISK, MEMORY
from apanet_jax.evaluation.plan import Needs
from apanet_jax.runs.run import Run, RunMaker
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import Ended, Row

STORED = ("computed", "bfloat16", "float16")
_PLANNED = ("windows", "passes", "supports")
_ORIENTATIONS = 8


class Way(NamedTuple):
    """How episodes are scored.

    Attributes:
      memory: gigabytes, or a share of the bytes of all features.
      disk: the same.
      share: whether they are shares.
      devices: simulated.
      killed: whether it is killed in the middle, and begun again.
      once: whether features are kept at all.
    """

    memory: float = 0.0
    disk: float = 0.0
    share: bool = False
    devices: int = 1
    killed: bool = False
    once: bool = True


# Of all features' bytes, see evaluation_room.md.
_SHARE = Way(8 / 314, 30 / 314, share=True)

WAYS = {
    "memory": Way(memory=8.0),
    "disk": Way(disk=30.0),
    "share": _SHARE,
    "none": Way(),
    "devices": _SHARE._replace(devices=8),
    "killed": _SHARE._replace(killed=True),
    "every": Way(once=False),
}


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    images = {"type": harness.whole(40), "default": 5000}
    parser.add_argument("--images", **images, help="in val2014, eight a scene (5000)")
    parser.add_argument("--train", type=harness.whole(40), default=800, help="in train2014 (800)")
    episodes = {"type": harness.whole(1), "default": 20_000}
    parser.add_argument("--episodes", **episodes, help="at each number of shots (20000)")
    shots = {"type": harness.numbers, "default": [1, 5]}
    parser.add_argument("--shots", **shots, help="supports (1,5)")
    sample = {"type": harness.whole(1), "default": 1000}
    parser.add_argument("--sample", **sample, help="where every episode is embedded (1000)")
    parser.add_argument("--size", type=harness.whole(65), default=97, help="of images (97)")
    parser.add_argument("--steps", type=harness.whole(1), default=100, help="of training (100)")
    kinds = {"type": harness.some_of(("conv", "fem")), "default": ["conv", "fem"]}
    parser.add_argument("--comparisons", **kinds, help="conv,fem")
    kinds = {"type": harness.some_of(STORED, all=STORED), "default": ["computed"]}
    parser.add_argument("--stored", **kinds, help="types of features: all, or some of them")
    ways = {"type": harness.some_of(WAYS, all=list(WAYS)), "default": list(WAYS)[:4]}
    parser.add_argument("--ways", **ways, help="all, or some of them (memory,disk,share,none)")
    parser.add_argument("--workdir", type=Path, help="kept, where another call goes on")
    return parser


def make_tree(root: Path, split: str, images: int, size: int) -> None:
    """Draws `{split}2014` and its annotations: an outline for each class's parts of an image."""
    scenes = -(-images // _ORIENTATIONS)
    source = SyntheticSource(0, scenes, scenes, size)
    rng = np.random.default_rng([0, split == "val"])
    folder = root / f"{split}2014"
    folder.mkdir(parents=True)
    listed, annotations = [], []
    for name in source.names(split):
        sample = source.read(split, name)
        drawn = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        for turned in range(_ORIENTATIONS):
            image = len(listed) + 1
            file = f"COCO_{split}2014_{image:012d}.jpg"
            cv2.imwrite(str(folder / file), _turned(drawn, turned))
            listed.append({"id": image, "file_name": file, "height": size, "width": size})
            for one in _annotations(_turned(sample.label, turned), rng):
                number = {"id": len(annotations) + 1, "image_id": image, "iscrowd": 0}
                annotations.append(number | one)
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    path = root / "annotations" / f"instances_{split}2014.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _turned(image: np.ndarray, number: int) -> np.ndarray:
    """Returns one of the eight ways in which a square lies on itself."""
    return np.ascontiguousarray(np.rot90(image[::-1] if number >= 4 else image, number % 4))


def _annotations(label: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    """Yields the outlines of each class: of the largest, novel in fold 0; of others, in any."""
    drawn = np.where(label <= len(CLASS_NAMES), label, 0)
    areas = np.bincount(drawn.ravel(), minlength=len(CLASS_NAMES) + 1)[1:]
    for class_id in np.flatnonzero(areas) + 1:
        fold = 0 if areas[class_id - 1] == areas.max() else rng.integers(FOLDS)
        mask = (drawn == class_id).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        polygons = [x.ravel().astype(float).tolist() for x in outlines if len(x) > 2]
        if polygons:
            category = int(FOLDS * (class_id - 1) + fold + 1)
            yield {"category_id": category, "segmentation": polygons}


def prepare(workdir: Path, images: int, train: int, size: int) -> Path:
    """Draws and prepares the images where they are not there yet; returns the records' folder."""
    records, tree = workdir / "records", workdir / "coco"
    if not records.exists():
        for split, count in (("train", train), ("val", images)):
            if not (tree / "annotations" / f"instances_{split}2014.json").exists():
                make_tree(tree, split, count, size)
        folders = [f"--images={tree}", f"--annotations={tree / 'annotations'}"]
        command = [sys.executable, "-m", "apanet_jax.prepare", "coco", "--any_count", *folders]
        harness.run([*command, f"--output={records}"], harness.ROOT)
    return records


def _bytes_in(folder: Path) -> int:
    """Returns the bytes that lie in a folder."""
    found = 0
    for inside, _, files in os.walk(folder):
        for name in files:
            try:
                found += os.stat(os.path.join(inside, name)).st_size
            except FileNotFoundError:
                # It gave way in the meantime.
                continue
    return found


def measure(records: Path, workdir: Path, comparison: str, given) -> Iterator[Row]:
    """Trains a head, and yields a row for each stored type and way."""
    config = (
        f"configs/coco.py:records={records},backbone=efficientnet_lite0,image_size={given.size},"
        f"longer_side={given.size},min_area=100,comparison={comparison},channels=64,workers=0,"
        "masked_support=True,priors=high,prior_scale=5.0,"
        f"steps={given.steps},learning_rate=0.005,every=0,pictures=0,write_episodes=True,"
        f"shots={'+'.join(map(str, given.shots))}"
    )
    trained, folder = workdir / comparison, workdir / f"{comparison}_features"
    folder.mkdir(exist_ok=True)
    main = [sys.executable, "-m", "apanet_jax.main", f"--workdir={trained}"]
    harness.run([*main, f"--config={config},devices=1", "--mode=train"], harness.ROOT)
    of_first, make = None, RunMaker().make
    for stored in given.stored:
        expected = None
        config_of = f"{config},stored={stored},directory={folder},episodes="
        ample = f"{config_of}{given.episodes},devices=1,memory_gigabytes=8.0"
        whole = sum(_needs(make, ample, given.shots, given.episodes).bytes) / 1e9
        for name in given.ways:
            way = WAYS[name]
            memory, disk = (x * whole if way.share else x for x in (way.memory, way.disk))
            episodes = given.episodes if way.once else given.sample
            chosen = (
                f"{config_of}{episodes},embed_once={way.once},"
                f"memory_gigabytes={memory},disk_gigabytes={disk}"
            )
            command = [*main, f"--config={chosen},devices={way.devices}", "--mode=evaluate"]
            if way.killed:
                _kill_in_the_middle(command, folder)
            with harness.Highest(functools.partial(_bytes_in, folder), 0.5) as held:
                took = harness.run(command, harness.ROOT, _on(way.devices))
            planned = (make, f"{chosen},devices=1", given.shots, episodes)
            needs = _needs(*planned) if way.once else None
            if needs and f"{needs.passes} images pass the backbone" not in took.output:
                raise AssertionError(f"{needs} was planned, and not: {took.output}")
            found = [_counts(trained / "episodes" / f"last_{k}shot.jsonl") for k in given.shots]
            if expected is None:
                expected = found
                of_first = of_first or found
            yield _row(needs, took, held.value) | {
                "comparison": comparison,
                "stored": stored,
                "way": name,
                "devices": way.devices,
                "budget_bytes": [1e9 * memory, 1e9 * disk],
                "images": given.images,
                "image_size": given.size,
                "episodes": episodes * len(given.shots),
                "intersection": int(sum(x[:, 0, 1].sum() for x in found)),
                "union": int(sum(x[:, 1, 1].sum() for x in found)),
                "partly_found": int(sum((x[:, 0] > 0).all(-1).sum() for x in found)),
                "compared": int(sum(x[:, 1].sum() for x in found)),
                "differing": _differing(found, expected),
                "differing_from_first": _differing(found, of_first),
            }


def _on(devices: int) -> dict[str, str]:
    simulated = f" --xla_force_host_platform_device_count={devices}"
    return dict(os.environ, XLA_FLAGS=os.environ.get("XLA_FLAGS", "") + simulated)


def _kill_in_the_middle(command: Sequence[str], folder: Path) -> None:
    """Starts a command, and kills it when it embeds supports of the later half of the classes."""

    def classes() -> Iterator[int]:
        for file in folder.glob("features-*/support_*_middle.npy"):
            yield int(file.name.split("_")[2])

    process = subprocess.Popen(command, cwd=harness.ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and max(classes(), default=0) <= CLASSES // 2:
        time.sleep(0.05)
    if process.poll() is not None:
        raise AssertionError(f"{command} ended before it was killed")
    process.kill()
    process.wait()


def _differing(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> int:
    """Returns how many pixels differ in the episodes that both have."""
    both = zip(found, expected, strict=True)
    return int(sum(np.abs(a[: len(b)] - b[: len(a)]).sum() for a, b in both))


def _needs(
    make: Callable[[ConfigDict], Run], config: str, shots: Sequence[int], episodes: int
) -> Needs:
    return make(harness.read_config(config)).evaluator.needs(shots, episodes)


def _counts(path: Path) -> np.ndarray:
    """Returns `[episodes, 2, 2]`: pixels in intersection and union, background and foreground."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return np.array([[line["intersection"], line["union"]] for line in lines], np.int64)


def _row(needs: Needs | None, took: Ended, disk: int) -> Row:
    row = {
        "disk_bytes": disk,
        "own_bytes": took.own_bytes,
        "peak_bytes": took.peak_bytes,
        "seconds": took.seconds,
        "processor_seconds": took.processor_seconds,
    }
    if needs is None:
        return row
    return row | {
        "windows": needs.windows,
        "passes": needs.passes,
        "different_images": needs.images,
        "supports": needs.supports,
        "planned_bytes": [needs.bytes[place] for place in (MEMORY, DISK, BEYOND)],
    }


def markdown(rows: Sequence[Row]) -> str:
    """Returns a line a row."""
    heads = ("comparison, stored, way", "episodes", "windows", "images passed", "supports")
    more = ("planned: memory + disk + beyond, MB", "disk, MB", "peak memory, MB", "seconds")
    counts = ("intersection, union", "partly found", "differ", "from the first type")
    lines = [
        (
            f"{row['comparison']}, {row['stored']}, {row['way']}",
            f"{row['episodes']:,}",
            *(f"{row[name]:,}" if name in row else "-" for name in _PLANNED),
            " + ".join(f"{x / 1e6:.1f}" for x in row.get("planned_bytes", [0])),
            f"{row['disk_bytes'] / 1e6:.1f}",
            f"{row['own_bytes'] / 1e6:.0f}",
            f"{row['seconds']:.0f}",
            f"{row['processor_seconds']:.0f}",
            f"{row['intersection']:,}, {row['union']:,}",
            f"{row['partly_found']:,}",
            f"{row['differing']:,} of {row['compared']:,}",
            f"{row['differing_from_first']:,}",
        )
        for row in rows
    ]
    return harness.table((*heads, *more, "processor seconds", *counts), lines)


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each comparison and budget."""
    given = arguments().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        workdir = (given.workdir or Path(folder)).resolve()
        records = prepare(workdir, given.images, given.train, given.size)
        rows = []
        for comparison in given.comparisons:
            for row in measure(records, workdir, comparison, given):
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    harness.publish(harness.environment() | {"rows": rows}, markdown(rows), given.json)


if __name__ == "__main__":
    main()
