"""Compiled functions that several objects share, held as long as somebody holds them."""

from collections.abc import Callable, Hashable
from typing import Any


class Programs:
    """Functions by what makes them: runs of one network share its compiled programs.

    `programs(make_step, network, mesh)` returns `make_step(network, mesh)`, the same each time, so
    that what JAX has compiled for it is compiled once.
    """

    def __init__(self):
        """Holds none."""
        self._made: dict[Hashable, Any] = {}

    def __call__(self, make: Callable[..., Any], *arguments: Hashable) -> Any:
        """Returns `make(*arguments)`, made when it is first asked for."""
        key = make, arguments
        if key not in self._made:
            self._made[key] = make(*arguments)
        return self._made[key]
