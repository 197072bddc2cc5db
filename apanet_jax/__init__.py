"""Few-shot semantic segmentation with adaptive prototypes (APANet) in JAX.

`load()` returns a segmenter for images of one's own: see `apanet_jax.inference.segmenter`.
`load_backbone()` returns a pretrained network's features: see `apanet_jax.weights.features`.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from apanet_jax.inference.segmenter import Segmenter, load
    from apanet_jax.weights.features import Backbone, load_backbone

__all__ = ["Backbone", "Segmenter", "load", "load_backbone"]

_MODULES = {
    "Backbone": "apanet_jax.weights.features",
    "Segmenter": "apanet_jax.inference.segmenter",
    "load": "apanet_jax.inference.segmenter",
    "load_backbone": "apanet_jax.weights.features",
}


def __getattr__(name: str):
    # On demand: the kernels are used without what the rest needs.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
