"""Several processes that make one run together: on one machine, or one or more on each of many.

Every process runs the same command. Together they train one head on all their devices; each loads
its share of a batch, and scores its share of the test episodes. The first one, the leader, alone
writes to the workdir and speaks on the standard output. With one process nothing here has any
effect.
"""

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Num

from apanet_jax.runtime.errors import UserError, status_of

AUTO = "auto"
_LONGER_THAN_OURS = 3600


@contextlib.contextmanager
def session(
    method: str | None = None,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
) -> Iterator[None]:
    """Joins the other processes, if the arguments say that there are any; before any use of JAX.

    Args:
      method: "auto" finds out from SLURM, Kubernetes, MPI or a TPU what the others are not given
        for; None: only what is given counts.
      coordinator: HOST:PORT where the first process listens.
      processes: how many there are.
      process: which of them this one is, from 0.
      timeout: seconds to wait until all are there.

    Raises:
      UserError: the arguments do not fit together, or not all processes came in time.
    """
    given = (coordinator, processes, process)
    if method is None and given == (None, None, None):
        yield
        return
    _check(method, coordinator, processes, process)
    _join(method, coordinator, processes, process, timeout)
    with contextlib.ExitStack() as stack:
        if not is_leader():
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
        try:
            yield
        except BaseException as error:
            if not getattr(error, "together", False):
                # The others wait for this one somewhere else: to say goodbye would take minutes.
                atexit.register(_leave, status_of(error))
            raise
        barrier("end")


def _check(
    method: str | None, coordinator: str | None, processes: int | None, process: int | None
) -> None:
    if method is None and None in (coordinator, processes, process):
        raise UserError(
            "of --coordinator, --processes and --process all three are needed, or --distributed="
            "auto where SLURM, Kubernetes or a TPU can be asked"
        )
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UserError(f"--coordinator={coordinator}: expected HOST:PORT")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(
            f"--process={process} with --processes={processes}: processes are numbered from 0 to "
            f"{processes - 1}"
        )


def _join(
    method: str | None,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    timeout: int,
) -> None:
    """Calls `jax.distributed.initialize` and gives up in time.

    JAX itself ends the process with a stack trace when it has waited long enough; so it gets more
    time than it needs and is left alone in a thread.
    """
    if process and coordinator is not None:
        _reach(coordinator, timeout)
    failed: list[Exception] = []

    def initialise() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                cluster_detection_method=None if method == AUTO else "deactivate",
                initialization_timeout=timeout + _LONGER_THAN_OURS,
            )
        except Exception as error:
            failed.append(error)

    heard = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=initialise, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        atexit.register(_leave, 2)
        raise UserError(
            f"after {timeout} seconds not all processes have come together"
            + (f" at {coordinator}" if coordinator else "")
            + f" (this is number {process} of {processes}): start all of them, with the same "
            "--coordinator and --processes, and each with a --process of its own"
        )
    if failed:
        raise UserError(
            f"the processes could not be joined: {failed[0]}; name --coordinator=HOST:PORT, "
            "--processes=N and --process=I"
        )
    if heard is not None and threading.current_thread() is threading.main_thread():
        # JAX listens to SIGTERM in its own way, by which nobody would hear of it here.
        signal.signal(signal.SIGTERM, heard)


def _reach(coordinator: str, timeout: int) -> None:
    """Waits until somebody listens at the coordinator's address.

    Raises:
      UserError: nobody did.
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() >= end:
                raise UserError(
                    f"--coordinator={coordinator} does not answer ({error.strerror or error}): "
                    "start process 0 there, and let its port through"
                ) from None
            time.sleep(0.5)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_leader() -> bool:
    """Returns whether this process writes what the run leaves: the first one does."""
    return not several() or jax.process_index() == 0


def several() -> bool:
    """Returns whether this run has other processes; asks no device where it has none."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if several():
        multihost_utils.sync_global_devices(name)


def any_asked(number: int | None) -> int | None:
    """Returns the largest number that any process gives, None where none gives any.

    All processes have to call it, and wait here for each other.
    """
    if not several():
        return number
    found = multihost_utils.process_allgather(np.int32(number or 0))
    return int(found.max()) or None


def share(count: int) -> range:
    """Returns which of `count` items are this process's: every P-th of P processes."""
    if not several():
        return range(count)
    return range(jax.process_index(), count, jax.process_count())


def gathered(mine: Num[np.ndarray, "mine *axes"], count: int) -> Num[np.ndarray, "count *axes"]:
    """Returns what all processes found of `count` items, in their order, of each one's `share`."""
    if not several():
        return mine
    processes = jax.process_count()
    most = -(-count // processes)
    filled = np.zeros((most, *mine.shape[1:]), mine.dtype)
    filled[: len(mine)] = mine
    found = np.asarray(multihost_utils.process_allgather(filled))
    return found.swapaxes(0, 1).reshape(most * processes, *mine.shape[1:])[:count]


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns the mesh of those devices that are this process's own."""
    if not several():
        return mesh
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return Mesh(np.array(own), mesh.axis_names, axis_types=mesh.axis_types)


def local(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that every device of `mesh` holds whole, as this process's own; no copies."""
    if not several():
        return tree
    whole = NamedSharding(local_mesh(mesh), PartitionSpec())

    def own(array: jax.Array) -> jax.Array:
        if array.is_fully_addressable:
            return jax.device_put(array, whole)
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, whole, shards)

    return jax.tree.map(own, tree)


def assembled(share: Any, sharding: NamedSharding) -> Any:
    """Returns the arrays of a whole batch, of which each process has its `share`."""
    if not several():
        return jax.device_put(share, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), share
    )
