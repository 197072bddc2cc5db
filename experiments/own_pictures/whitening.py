"""Makes the whitening that comes with the package for a backbone: `inference.matching.whitening`.

    python experiments/own_pictures/whitening.py --features=RECORDS/features/HASH \
        --channels=384-768 --within --shrinkage=1 \
        --output=apanet_jax/inference/matching/whitenings/dinov2_vits14.npz
    python experiments/own_pictures/whitening.py --features=RECORDS/features/HASH \
        --channels=0-112 --shrinkage=0.3 \
        --output=apanet_jax/inference/matching/whitenings/efficientnet_lite0.npz

The features are those that a run keeps of a data set's training images (`middle.npy`, with block
4's channels before block 3's, and `label.npy`); no label but 255, outside of the image, is looked
at. A few positions of each image are drawn.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.inference.matching.whitening import Whitening, unit
from apanet_jax.runtime.errors import Parser
from experiments import harness

IMAGES, OF_EACH = 900, 40
"""Images that are drawn, and positions of each."""


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--features", type=Path, required=True, help="a folder of kept features")
    parser.add_argument("--channels", default="", help="FIRST-END of the block (all)")
    parser.add_argument("--within", action="store_true", help="covariance within images")
    parser.add_argument("--shrinkage", type=float, default=1.0, help="see `Whitening` (1)")
    parser.add_argument("--output", type=Path, required=True, help="FILE.npz")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the whitening."""
    given = arguments().parse_args(argv)
    channels = slice(*(int(x) for x in given.channels.split("-") if x))
    drawn = positions(given.features, channels)
    found = whitening(drawn, shrinkage=given.shrinkage, within=given.within)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        given.output, **{name: x.astype(np.float16) for name, x in found._asdict().items()}
    )


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
