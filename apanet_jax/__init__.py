"""Few-shot semantic segmentation with adaptive prototypes (APANet) in JAX.

`load()` returns a segmenter for images of one's own: see `apanet_jax.inference.segmenter`.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from apanet_jax.inference.segmenter import Segmenter, load

__all__ = ["Segmenter", "load"]


def __getattr__(name: str):
    # On demand: the kernels are used without what the rest needs.
    if name in __all__:
        from apanet_jax.inference import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
