"""Starts the page: see `apanet_jax.demo.server`."""

from apanet_jax.demo.server import main

if __name__ == "__main__":
    main()
