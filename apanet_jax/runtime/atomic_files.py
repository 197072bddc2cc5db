"""Files that are there whole or not at all, whatever interrupts the writing of them."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from apanet_jax.runtime.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Opens a text file to write to; it takes its place when the block ends without an error.

    Raises:
      UserError: it cannot be written; what was there before stays.
    """
    temporary = path.with_name(path.name + ".new")
    with cannot_write(path):
        try:
            with temporary.open("w") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            # Where a file stands in place of the folder, there is nothing to remove either.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


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
