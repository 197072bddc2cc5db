"""Runs a command as a process of its own, and tells what it took (Linux)."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.runtime.errors import UserError

_SECONDS_BETWEEN_LOOKS = 0.02


class Ended(NamedTuple):
    """What a process took.

    Attributes:
      seconds: by the clock.
      processor_seconds: its own, on all cores together.
      peak_bytes: the most memory it held.
      output: what it printed.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    output: str


def run(
    command: Sequence[str | os.PathLike],
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Runs a command to its end.

    Args:
      command: the program and its arguments.
      folder: it is run in; None: this one.
      variables: its environment; None: that of this process.

    Raises:
      UserError: it cannot be started, or fails; what it wrote to its standard error stands before.
    """
    command = [str(part) for part in command]
    with tempfile.TemporaryFile("w+") as printed:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, cwd=folder, env=variables, stdout=printed)
        except OSError as error:
            raise UserError(f"{command[0]} cannot be run: {error.strerror}") from None
        peak, ended = 0, 0
        while not ended:
            # Not the usage's: it counts what this process held when the other was begun.
            peak = max(peak, _peak_bytes(process.pid))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        printed.seek(0)
        output = printed.read()
    if status:
        raise UserError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return Ended(seconds, usage.ru_utime + usage.ru_stime, peak, output)


def _peak_bytes(process: int) -> int:
    """Returns the most memory that a process has held; 0 once it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0
