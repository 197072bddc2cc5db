"""Starts the page: see `apanet_jax.demo`."""

from apanet_jax.demo.command import main

if __name__ == "__main__":
    main()
