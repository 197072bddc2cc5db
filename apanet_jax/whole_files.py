"""Files that are there whole or not at all, whatever interrupts the writing of them."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Opens a text file to write to; it takes its place when the block ends without an error."""
    temporary = _temporary(path)
    with temporary.open("w") as file:
        yield file
    os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file."""
    temporary = _temporary(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON."""
    write_bytes(path, (json.dumps(value, indent=2, default=list) + "\n").encode())


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".new")
