"""What the scripts share: the device and versions, memory, commands as processes of their own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.runtime.errors import UserError

# Others share the GPU; read when jax first asks for its devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_SECONDS_BETWEEN_LOOKS = 0.02


def environment() -> dict[str, Any]:
    """Returns the device and the versions, as every benchmark's JSON has them."""
    device = jax.devices()[0]
    name = f"{_processor()}, {os.cpu_count()} cores" if device.platform == "cpu" else None
    packages = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "scikit-learn")
    packages += ("faiss-cpu", "torch_kmeans", "fast_pytorch_kmeans", "kmeans_pytorch")
    packages += ("flash_kmeans",)
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"device": name or device.device_kind, "versions": versions}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class Memory:
    """Counts what a block of code takes beyond what was there: `bytes`, sampled every 5 ms.

    On a CPU it is the process's resident memory, with what compiling takes; on a GPU the peak that
    the device tells, which only ever grows.
    """

    def __enter__(self) -> Memory:
        self._before = self._peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(0, max(self._peak, self._now("peak_bytes_in_use")) - self._before)

    def _watch(self):
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._now())

    @staticmethod
    def _now(what: str = "bytes_in_use") -> int:
        stats = jax.devices()[0].memory_stats()
        if stats:
            return stats[what]
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * 4096 if pages.exists() else 0


def settle(seconds: float) -> None:
    """Lets a CPU come to rest: OpenMP's threads of the one before keep a core busy for a while."""
    if jax.default_backend() == "cpu":
        time.sleep(seconds)


def bandwidth(features: np.ndarray) -> float:
    """Returns the most bytes a second that a plain read, or copy, of the features moves."""
    x = jax.block_until_ready(jax.device_put(features))
    vector = jnp.ones(x.shape[-1])
    attempts = (
        (jax.jit(jnp.sum), 1),
        (jax.jit(lambda x: jnp.sum(x, -1)), 1),
        (jax.jit(lambda x: x @ vector), 1),
        (jax.jit(lambda x: -x), 2),
    )
    # One after the other without waiting: on a GPU a call takes longer than the reading.
    together = 1 if jax.default_backend() == "cpu" else 16
    best = 0.0
    for function, passes in attempts:
        jax.block_until_ready(function(x))
        for _ in range(8):
            start = time.perf_counter()
            jax.block_until_ready([function(x) for _ in range(together)])
            seconds = (time.perf_counter() - start) / together
            best = max(best, passes * x.nbytes / seconds)
    return best


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
