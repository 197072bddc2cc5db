"""One process at a time works in a folder, or those that make one run together."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import cannot_write
from apanet_jax.runtime.errors import UserError

LOCK = "in_use.lock"

_HELD: set[Path] = set()


@contextlib.contextmanager
def sole_use(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a workdir, which is made where it is missing; within a process it may be nested.

    The leader of several processes holds it for all of them, unless they `wait` for each other.

    The kernel lets go of the lock when the process ends, however it ends; the file stays and says
    who holds it or held it last.

    Args:
      workdir: the folder.
      wait: for a process that holds it, instead of refusing.

    Raises:
      UserError: another process holds it, or the workdir cannot be written to.
    """
    path = Path(workdir).absolute() / LOCK
    if path in _HELD or not (wait or processes.is_leader()):
        yield
        return
    with cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, Path(workdir), wait)
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, workdir: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        if not wait:
            raise UserError(
                f"{workdir} is in use by {holder}: wait for it, stop it, or take another --workdir"
            ) from None
        print(f"waiting for {holder}, which works in {workdir}", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be locked: {error.strerror}; take a --workdir on another file system"
        ) from None
    with contextlib.suppress(OSError):
        # Only told to others: a full disk is none of the lock's business.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
