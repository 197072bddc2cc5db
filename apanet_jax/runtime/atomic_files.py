"""Files that are there whole or not at all, whatever interrupts the writing of them."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from apanet_jax.runtime.errors import UserError

_NOT_SUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What file systems of mounted drives and object stores say of what they cannot do."""
_CANNOT_RENAME = {errno.EXDEV, errno.EPERM, *_NOT_SUPPORTED}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Opens a text file to write to; it takes its place when the block ends without an error.

    Where the file system cannot put a file into another one's place, it is copied there, with a
    line of warning. A link stays one: the file that it leads to is written.

    Raises:
      UserError: it cannot be written; what was there before stays.
    """
    with cannot_write(path), replacing(path) as file:
        yield file


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Does what `writing` does, and raises what the system says."""
    path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            synchronise(file.fileno())
        move(temporary, path)
    except BaseException:
        # Where a file stands in place of the folder, there is nothing to remove either.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def synchronise(descriptor: int) -> None:
    """Has an open file's content on the disk, where the file system can promise that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def move(source: Path, target: Path) -> None:
    """Puts a file in a file's place at once, or a folder where there is none.

    Between file systems, and where one cannot rename, it is copied beside its place first; where
    it cannot be renamed there either, a line of warning says that it is copied into its place.
    """
    try:
        os.replace(source, target)
        return
    except OSError as error:
        if error.errno not in _CANNOT_RENAME or not os.path.exists(source):
            raise
    beside = target.with_name(target.name + ".copy")
    try:
        _copy(source, beside)
        try:
            os.replace(beside, target)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME:
                raise
            print(
                f"warning: the file system of {target.parent} cannot rename: {target.name} is "
                "copied into its place, and would be cut short if this were interrupted",
                file=sys.stderr,
                flush=True,
            )
            _copy(beside, target)
        _remove(source)
    finally:
        _remove(beside)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file.

    Raises:
      UserError: it cannot be written; what was there before stays.
    """
    with writing(path) as file:
        file.buffer.write(content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON; see `write_bytes`."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Returns `value` as the JSON that `write_json` writes."""
    return (json.dumps(value, indent=2, default=list) + "\n").encode()


@contextlib.contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Makes what the system refuses in the block a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; free some space or name a place "
            "that can be written to; what was there before is untouched"
        ) from error


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        # The content alone: what else a file has, not every file system can store.
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
