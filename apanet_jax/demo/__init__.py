"""A page to try it on: `python -m apanet_jax.demo`, in the browser of the same machine."""

from apanet_jax.demo.server import main

__all__ = ["main"]
