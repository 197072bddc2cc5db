"""Few-shot semantic segmentation with adaptive prototypes (APANet) in JAX."""
