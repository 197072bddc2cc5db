"""The devices of a run as a mesh, and how arrays lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from apanet_jax.runtime.errors import UserError


def data_mesh(devices: int | None = None) -> Mesh:
    """Returns a mesh with one axis, "data", over `devices` devices of each process (None: all).

    Raises:
      UserError: a process has fewer.
    """
    chosen = []
    for process in range(jax.process_count()):
        own = [device for device in jax.devices() if device.process_index == process]
        if devices and len(own) < devices:
            raise UserError(
                f"devices={devices}, but there are {len(own)}: take fewer, or 0 for all"
            )
        chosen += own[:devices]
    # In the order of processes, so that each one's share of a batch is one piece.
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, of_heads: bool = False) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch, the second if `of_heads`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * of_heads, "data"))
