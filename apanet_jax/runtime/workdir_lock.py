"""One process at a time works in a folder, or those that make one run together."""

import contextlib
import errno
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import cannot_write
from apanet_jax.runtime.errors import UserError

LOCK, HOLDER = "in_use.lock", "in_use.txt"

_NOT_SUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system says that has no locks, such as a mounted drive of a notebook service."""


@contextlib.contextmanager
def sole_use(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a workdir, which is made where it is missing; within a process it may be nested.

    The leader of several processes holds it for all of them, unless they `wait` for each other. The
    lock ends with the process, however it ends. Where the file system has no locks, one line of
    warning says that nothing keeps a second process out.

    Args:
      workdir: the folder.
      wait: for a process that holds it, instead of refusing.

    Raises:
      UserError: another process holds it, or the workdir cannot be written to.
    """
    if not (wait or processes.is_leader()):
        yield
        return
    path = Path(workdir).absolute() / LOCK
    with cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        _acquire(path, Path(workdir), held, wait=wait)
        yield


def _acquire(path: Path, workdir: Path, held: contextlib.ExitStack, *, wait: bool) -> None:
    lock = FileLock(path, is_singleton=True, thread_local=False)
    try:
        # The library tells by a warning that it makes do without the file system's locks.
        with warnings.catch_warnings(record=True) as makeshift:
            warnings.simplefilter("always")
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                _refuse_or_say(workdir, _holder(path), wait=wait)
                held.enter_context(lock.acquire())
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_SUPPORTED:
            with cannot_write(path):
                raise
        makeshift = [error]
    if makeshift:
        print(
            f"warning: {workdir} lies on a file system without locks: see that no other process "
            "works in it",
            file=sys.stderr,
            flush=True,
        )
    with contextlib.suppress(OSError):
        # Only for the message to others: a full disk is none of the lock's business.
        (path.parent / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")


def _refuse_or_say(workdir: Path, holder: str, *, wait: bool) -> None:
    if not wait:
        raise UserError(
            f"{workdir} is in use by {holder}: wait for it, stop it, or take another --workdir"
        )
    print(f"waiting for {holder}, which works in {workdir}", flush=True)


def _holder(path: Path) -> str:
    try:
        return (path.parent / HOLDER).read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"
