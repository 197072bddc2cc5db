"""A page to try few-shot segmentation: `python -m apanet_jax.demo`, in a browser on this machine.

`command` holds the flags, `server` starts the page. `page` is its layout, `events` what happens at
each of a visitor's actions, `steps` what they are told to do next, and `editor` where they paint.
`visit` is what they have entered, `uploads` how it comes from files; `finding` segments the
queries, and `cards` is what is shown of each.
"""

from apanet_jax.demo.command import main

__all__ = ["main"]
