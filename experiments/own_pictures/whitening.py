"""Makes what is taken from features before they are compared: a whitening, and a mean.

    python experiments/own_pictures/whitening.py --features=RECORDS/features/HASH \
        --channels=0-112 --shrinkage=0.3 \
        --output=apanet_jax/inference/matching/whitenings/efficientnet_lite0.npz
    python experiments/own_pictures/whitening.py --source=VOC_ANIMALS --source=SCENES \
        --output=apanet_jax/inference/matching/whitenings/object_mean.npz

The first is `inference.matching.whitening`. Its features are those that a run keeps of a data set's
training images (`middle.npy`, with block 4's channels before block 3's, and `label.npy`); no label
but 255, outside of the image, is looked at. A few positions of each image are drawn.

The second is the mean of `inference.matching.object_features` over positions of training images of
data sets in the VOC layout, each data set alike, each image alike. No label is looked at.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.images.reader import decode_image
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.source import Source
from apanet_jax.inference.matching.geometry import fitted_square, grid_of
from apanet_jax.inference.matching.object_features import BACKBONE, ObjectFeatures, load_top
from apanet_jax.inference.matching.presence import inside
from apanet_jax.inference.matching.whitening import Whitening, unit
from apanet_jax.runtime.errors import Parser, UserError
from apanet_jax.weights.features import load_backbone
from experiments import harness

IMAGES, OF_EACH = 900, 40
"""Images that are drawn, and positions of each."""
SIDE, OF_SOURCE = 385, 150
"""Of the squares for the mean, in pixels, and images of each data set."""


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--features", type=Path, help="a folder of kept features")
    sources = {"type": Path, "action": "append", "default": []}
    parser.add_argument("--source", **sources, help="a data set, for the mean; may be repeated")
    parser.add_argument("--channels", default="", help="FIRST-END of the block (all)")
    parser.add_argument("--within", action="store_true", help="covariance within images")
    parser.add_argument("--shrinkage", type=float, default=1.0, help="see `Whitening` (1)")
    parser.add_argument("--output", type=Path, required=True, help="FILE.npz")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the whitening, or the mean."""
    given = arguments().parse_args(argv)
    if (given.features is None) != bool(given.source):
        raise UserError("expected either --features, for a whitening, or --source, for a mean")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    if given.source:
        means = [object_mean(FolderSource(x)) for x in given.source]
        np.savez_compressed(given.output, mean=np.mean(means, 0).astype(np.float16))
        return
    channels = slice(*(int(x) for x in given.channels.split("-") if x))
    drawn = positions(given.features, channels)
    found = whitening(drawn, shrinkage=given.shrinkage, within=given.within)
    np.savez_compressed(
        given.output, **{name: x.astype(np.float16) for name, x in found._asdict().items()}
    )


def object_mean(source: Source) -> Float[np.ndarray, " channels"]:
    """Returns the mean of unit object features over the positions of some training images."""
    features, backbone = ObjectFeatures(load_top(), np.zeros(1)), load_backbone(BACKBONE)
    grid, means = grid_of(BACKBONE, SIDE), []
    names = np.array(sorted(source.names("train")))
    for name in np.random.default_rng(0).permutation(names)[:OF_SOURCE]:
        image = decode_image(source.read("train", str(name)).image, Path(str(name))).image
        (block4,) = backbone.features(fitted_square(image, grid)[None], (4,))
        window = grid.inside(image.shape[:2]), grid.positions
        means.append(inside(features.top(block4)[0], *window).mean((0, 1)))
    return np.mean(means, 0)


def whitening(
    images: Sequence[Float[np.ndarray, "_ channels"]], *, shrinkage: float, within: bool
) -> Whitening:
    """Returns the whitening of unit features of positions of images.

    Args:
      images: those of each image.
      shrinkage: see `Whitening`.
      within: whether each image's own mean is taken away before the covariance, not the mean of
        all.
    """
    mean = np.concatenate(images).mean(0)
    rest = np.concatenate([x - (x.mean(0) if within else mean) for x in images])
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    scale = 1 / np.sqrt(np.maximum(values, 0) + shrinkage * values.mean())
    return Whitening(mean, (vectors * scale) @ vectors.T)


def positions(folder: Path, channels: slice) -> list[np.ndarray]:
    """Returns unit features `[positions, channels]` of some positions of some images."""
    middle = np.load(folder / "middle.npy", mmap_mode="r")
    labels = np.load(folder / "label.npy", mmap_mode="r")
    rng, drawn = np.random.default_rng(0), []
    side, size = middle.shape[2], labels.shape[2]
    centres = ((np.arange(side) + 0.5) * size / side).astype(int)
    for index in np.sort(rng.permutation(len(middle))[:IMAGES]):
        label = np.asarray(labels[index, 0])[np.ix_(centres, centres)]
        inside = np.flatnonzero(label.ravel() != IGNORE)
        chosen = rng.choice(inside, min(OF_EACH, len(inside)), replace=False)
        found = np.asarray(middle[index, 0], np.float32).reshape(side * side, -1)[chosen, channels]
        drawn.append(unit(found))
    return drawn


if __name__ == "__main__":
    main()
