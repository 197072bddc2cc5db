"""Which of a backbone's blocks to compare images by, and whether to take positions out.

    python experiments/own_pictures/feature_blocks.py --source=VOC_LAYOUT_DIR
        [--backbone=dinov2_vits14] [--weights=pip] [--blocks=8,9,10,11,12] [--size=392]
        [--directions=0,16,64] [--shots=1,5] [--images=12] [--episodes=60] [--json=FILE]

Nothing is trained. For each novel class of the folds, queries and supports are drawn from --images
images of `val` that show it, on 2048 pixels or more. Two rules compare the unit features of a
query's positions with those of its supports:

  prior: the largest cosine to a foreground position, the mean over the supports, as in the prior
    mask. Its average precision says how well it ranks positions; no threshold is chosen.
  ratio: the logarithm of the mean of exp(cosine / 0.05) over all foreground positions, minus the
    same of the background. The IoU of where it is above 0.

Both are scored on the positions, labelled by the majority of their pixels, and averaged over the
classes. `--directions` are numbers of positional directions that are projected out first (see
`models.debias`); 0 leaves the features as they are. Blocks side by side are joined by "+".
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).parents[2]))

import apanet_jax
from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.transforms import fit_square
from apanet_jax.kernels.density_ratio import density_ratio
from apanet_jax.models import backbones
from apanet_jax.models.debias import images_without_content, positional_basis, without_directions
from apanet_jax.models.prior import largest_cosine
from apanet_jax.models.resize import at_size
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row

BANDWIDTH = 0.05
MIN_AREA = 2048
SEED = 0


def draw_images(source: FolderSource, count: int) -> dict[int, list[str]]:
    """Returns, for each novel class, the names of images that show it, where there are `count`."""
    found: dict[int, list[str]] = {}
    ids = {name: i for i, name in enumerate(source.class_names, 1)}
    names = np.random.default_rng(SEED).permutation(source.names("val"))
    for class_id in [ids[name] for fold in source.folds for name in fold]:
        showing = (
            str(name)
            for name in names
            if (source.read("val", name).label == class_id).sum() >= MIN_AREA
        )
        chosen = list(itertools.islice(showing, count))
        if len(chosen) == count:
            found[class_id] = chosen
    if not found:
        raise UserError(f"no class has {count} images: give fewer --images")
    return found


def read_square(source: FolderSource, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image and its label map in the top left of a square."""
    sample = source.read("val", name)
    image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR_RGB)
    return fit_square(image, sample.label, size)


def shares(label: np.ndarray, class_id: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns the shares of foreground and background at each position, `[2, positions]`."""
    masks = np.stack([label == class_id, (label != class_id) & (label != IGNORE)])
    return np.asarray(at_size(masks, shape, centred=True)).reshape(2, -1)


@jax.jit
def compare(
    query: Float[Array, "positions channels"],
    supports: Float[Array, "shots positions channels"],
    labels: Float[Array, "shots 2 positions"],
) -> tuple[Float[Array, " positions"], Float[Array, " positions"]]:
    """Returns the prior and the ratio at each position of a query."""
    same = jnp.broadcast_to(query, (len(supports), *query.shape))
    prior = largest_cosine(same, supports, labels[:, 0] >= 0.5).mean(0)
    foreground, background = jnp.swapaxes(labels, 0, 1).reshape(2, -1)
    flat = supports.reshape(-1, query.shape[-1])
    return prior, density_ratio(query, flat, foreground, background, BANDWIDTH)


def evaluate(
    features: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    drawn: dict[int, list[str]],
    shot: int,
    episodes: int,
) -> Row:
    """Returns both rules' scores, the mean over the classes."""
    precisions, ious = [], []
    for class_id, names in drawn.items():
        rng = np.random.default_rng([SEED, class_id, shot])
        intersection = union = 0
        precision = []
        for _ in range(episodes):
            query, *supports = rng.permutation(names)[: 1 + shot]
            shape = features[query].shape[:2]
            of = {name: shares(labels[name], class_id, shape) for name in (query, *supports)}
            flat = {name: features[name].reshape(-1, features[name].shape[-1]) for name in of}
            prior, ratio = compare(
                flat[query],
                np.stack([flat[name] for name in supports]),
                np.stack([of[name] for name in supports]),
            )
            valid = of[query].sum(0) >= 0.5
            truth = (of[query][0] > of[query][1])[valid]
            if truth.any():
                precision.append(average_precision_score(truth, np.asarray(prior)[valid]))
            found = np.asarray(ratio)[valid] > 0
            intersection += (found & truth).sum()
            union += (found | truth).sum()
        precisions.append(np.mean(precision))
        ious.append(intersection / max(union, 1))
    return {
        "prior_average_precision": 100 * float(np.mean(precisions)),
        "ratio_miou": 100 * float(np.mean(ious)),
    }


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--backbone", choices=list(backbones.BACKBONES), default="dinov2_vits14")
    parser.add_argument("--weights")
    parser.add_argument("--blocks", default="8,9,10,11,12")
    parser.add_argument("--size", type=harness.whole(28), default=392)
    parser.add_argument("--directions", type=harness.numbers, default=[0])
    parser.add_argument("--shots", type=harness.numbers, default=[1, 5])
    parser.add_argument("--images", type=harness.whole(6), default=12)
    parser.add_argument("--episodes", type=harness.whole(1), default=60)
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table, and writes the rows where `--json` asked for them."""
    given = arguments().parse_args(argv)
    groups = [tuple(map(int, group.split("+"))) for group in given.blocks.split(",")]
    blocks = tuple(sorted({number for group in groups for number in group}))
    source = FolderSource(given.source)
    drawn = draw_images(source, given.images)
    names = sorted({name for chosen in drawn.values() for name in chosen})
    backbone = apanet_jax.load_backbone(given.backbone, given.weights)
    squares = {name: read_square(source, name, given.size) for name in names}
    labels = {name: label for name, (_, label) in squares.items()}
    maps = {
        name: dict(zip(blocks, backbone.features(image[None], blocks), strict=True))
        for name, (image, _) in squares.items()
    }
    empty = images_without_content(2, given.size, given.size)
    without = dict(zip(blocks, backbone.features(empty, blocks), strict=True))
    result = harness.environment() | {"weights": backbone.origin._asdict(), "rows": []}
    for group, directions in itertools.product(groups, given.directions):

        def joined(of_block, group=group, directions=directions):
            parts = []
            for number in group:
                part = of_block[number]
                if directions:
                    basis = positional_basis(without[number], directions)
                    part = without_directions(part, basis)
                parts.append(part / jnp.linalg.norm(part, axis=-1, keepdims=True))
            return np.asarray(jnp.concatenate(parts, -1))

        features = {name: joined(of_block)[0] for name, of_block in maps.items()}
        for shot in given.shots:
            row = {"blocks": "+".join(map(str, group)), "directions": directions, "shots": shot}
            row |= evaluate(features, labels, drawn, shot, given.episodes)
            result["rows"].append(row)
            print(row, file=sys.stderr, flush=True)
    heads = ("blocks", "directions", "supports", "prior: average precision", "ratio: mean IoU")
    cells = [
        [*(row[name] for name in ("blocks", "directions", "shots"))]
        + [f"{row[name]:.1f}" for name in ("prior_average_precision", "ratio_miou")]
        for row in result["rows"]
    ]
    harness.publish(result, harness.table(heads, cells), given.json)


if __name__ == "__main__":
    main()
