"""Few-shot semantic segmentation with adaptive prototypes (APANet) in JAX."""

__version__ = "0.1.0"
