"""Where features are kept while a process lives: on the device, in memory, then on disk."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from apanet_jax.runtime.errors import UserError

Arrays = dict[str, np.ndarray | jax.Array]


class FeatureStore:
    """Arrays by key: on the device, then in memory, each up to a budget, then in temporary files.

    What is there stays there: with episodes in the engine's order a part that fits is hit again
    and again, while the least recently used would always be what is needed next.
    """

    def __init__(
        self,
        *,
        device_bytes: float,
        memory_bytes: float,
        directory: Path | None = None,
        sharding: jax.sharding.Sharding | None = None,
    ):
        """Starts empty.

        Args:
          device_bytes: the first budget.
          memory_bytes: the second.
          directory: where the temporary folder is made; None: the system's place.
          sharding: how arrays on the device are laid out; None: on the first one.
        """
        on_device = functools.partial(jax.device_put, device=sharding)
        self._tiers = [_Tier(device_bytes, on_device), _Tier(memory_bytes, np.asarray)]
        self._place = directory
        self._folder: tempfile.TemporaryDirectory | None = None
        self._held: dict[Any, Arrays | dict[str, np.dtype]] = {}
        self._filed: set[Any] = set()

    def __contains__(self, key: Any) -> bool:
        return key in self._held

    def offer(self, key: Any, arrays: Arrays) -> bool:
        """Keeps arrays under a key if a budget has room for them; returns whether it had."""
        size = sum(array.nbytes for array in arrays.values())
        for tier in self._tiers:
            if size <= tier.left:
                tier.left -= size
                self._held[key] = {name: tier.place(array) for name, array in arrays.items()}
                return True
        return False

    def put(self, key: Any, arrays: Arrays) -> None:
        """Keeps arrays under a key, in files where no budget has room.

        Raises:
          UserError: the disk is full.
        """
        if self.offer(key, arrays):
            return
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="features-", dir=self._place)
            for name, array in arrays.items():
                # As bytes: NumPy's files do not know bfloat16.
                np.save(self._path(key, name), array.view(np.uint8))
        except OSError as error:
            raise UserError(
                f"features could not be kept on disk: {error.strerror or error}; free some space, "
                "name another place with features.directory, raise evaluation.memory_gigabytes, or "
                "pass evaluation.embed_once=False"
            ) from None
        self._held[key] = {name: array.dtype for name, array in arrays.items()}
        self._filed.add(key)

    def get(self, key: Any) -> Arrays:
        """Returns what was kept; of a file only what is used is read."""
        held = self._held[key]
        if key not in self._filed:
            return held
        return {
            name: np.load(self._path(key, name), mmap_mode="r").view(dtype)
            for name, dtype in held.items()
        }

    def _path(self, key: Any, name: str) -> Path:
        return Path(self._folder.name) / ("_".join(map(str, key)) + f"_{name}.npy")


@dataclasses.dataclass
class _Tier:
    left: float
    place: Callable[[Any], Any]
