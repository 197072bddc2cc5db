"""A page to try few-shot segmentation: `python -m apanet_jax.demo`, in a browser on this machine.

`command` holds the flags, `server` starts the page, `page` is its layout and events, `visit` what a
visitor has entered, and `cards` what is shown of each query.
"""

from apanet_jax.demo.command import main

__all__ = ["main"]
