"""Rows of batches as single arrays: each lies on one device, and none is copied to make a batch.

A batch of B rows over D devices has b = B / D rows on each. A program takes it as b arrays of one
row a device, and stacks them where they lie. So what is kept of an image stays on the device that
made it, and goes into any batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from apanet_jax.runtime.devices import batch_sharding

Row = Mapping[str, np.ndarray | jax.Array]
"""Arrays by name, each with a first axis of 1."""


class Rows:
    """Makes batches of rows, and rows of batches.

    Attributes:
      batch_size: rows of a batch.
      devices: how many there are.
      each: rows of a batch on each.
    """

    def __init__(self, mesh: Mesh, batch_size: int):
        """Spreads batches of `batch_size` rows over the devices of a mesh."""
        self._devices = list(mesh.devices.flat)
        self._sharding = batch_sharding(mesh)
        self.batch_size, self.devices = batch_size, len(self._devices)
        self.each = batch_size // self.devices

    def device(self, row: int) -> int:
        """Returns the number of the device that a batch's row lies on."""
        return row // self.each

    def home(self, row: Row) -> int | None:
        """Returns the number of the device that a row lies on; None where it is in memory."""
        array = next(iter(row.values()))
        if not isinstance(array, jax.Array):
            return None
        return self._devices.index(next(iter(array.devices())))

    def stacked(self, rows: Sequence[Row]) -> tuple[dict[str, jax.Array], ...]:
        """Returns rows as the arrays of a batch, each with one row a device."""
        return tuple(
            {
                name: self._placed([row[name] for row in rows[place :: self.each]])
                for name in rows[0]
            }
            for place in range(self.each)
        )

    def split(self, parts: Sequence[Mapping[str, jax.Array]]) -> list[dict[str, jax.Array]]:
        """Returns the rows of a batch that a program has made, each where it lies."""
        rows: list[dict[str, jax.Array]] = [{} for _ in range(self.batch_size)]
        for place, part in enumerate(parts):
            for name, array in part.items():
                shards = {shard.device: shard.data for shard in array.addressable_shards}
                for number, device in enumerate(self._devices):
                    rows[number * self.each + place][name] = shards[device]
        return rows

    def spread(self, arrays: Any) -> Any:
        """Returns arrays of a whole batch, each device with its rows."""
        return jax.device_put(arrays, self._sharding)

    def _placed(self, rows: Sequence[np.ndarray | jax.Array]) -> jax.Array:
        shards = [
            jax.device_put(row, device) for row, device in zip(rows, self._devices, strict=True)
        ]
        shape = (self.devices, *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._sharding, shards)


def on_each(mesh: Mesh, function: Callable, parameters: int) -> Callable:
    """Returns a compiled function that every device calls with its own rows.

    Args:
      mesh: the devices.
      function: of parameters, which every device holds whole, and of batches.
      parameters: how many of its first arguments they are.
    """

    def called(*arguments):
        whole = (PartitionSpec(),) * parameters
        spread = (PartitionSpec("data"),) * (len(arguments) - parameters)
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(*whole, *spread),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )(*arguments)

    called.__name__ = function.__name__
    return jax.jit(called)


def joined(parts: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Returns a device's rows of a batch side by side; inside of a program."""
    return {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}


def apart(arrays: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], ...]:
    """Returns a device's rows of a batch one by one; inside of a program."""
    count = len(next(iter(arrays.values())))
    return tuple({name: x[i : i + 1] for name, x in arrays.items()} for i in range(count))
