"""The network and its frozen backbones (jax and flax only)."""
