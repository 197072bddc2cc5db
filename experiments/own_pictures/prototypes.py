"""Makes the general prototypes that come with the package: see `inference/prototypes.py`.

    python experiments/own_pictures/prototypes.py --features=RECORDS/features/HASH \
        --channels=384 --output=apanet_jax/inference/general_prototypes/dinov2_vits14.npz

The features are those that a run keeps of a data set's training images (`middle.npy`, whose first
channels are block 4's, and `label.npy`); no label but 255, outside of the image, is looked at. A
few positions of each image are drawn, and their unit vectors, less the mean, clustered by cosine
k-means.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.transforms import IGNORE
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.runtime.errors import Parser
from experiments import harness

IMAGES, OF_EACH = 700, 40
"""Images that are drawn, and positions of each."""


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--features", type=Path, required=True, help="a folder of kept features")
    parser.add_argument("--channels", type=int, required=True, help="of block 4")
    parser.add_argument("--number", type=harness.whole(1), default=128, help="of prototypes (128)")
    parser.add_argument("--output", type=Path, required=True, help="FILE.npz")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the prototypes."""
    given = arguments().parse_args(argv)
    drawn = positions(given.features, given.channels)
    mean = np.mean([x.mean(0) for x in drawn], 0)
    centred = np.concatenate(drawn) - mean
    centres = np.asarray(
        kmeans(centred, given.number, init="random", key=jax.random.key(0)).centres
    )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        given.output, mean=mean.astype(np.float16), centres=centres.astype(np.float16)
    )


def positions(folder: Path, channels: int) -> list[np.ndarray]:
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
        found = np.asarray(middle[index, 0], np.float32).reshape(side * side, -1)[chosen, :channels]
        drawn.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    return drawn


if __name__ == "__main__":
    main()
