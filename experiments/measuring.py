"""What a benchmark says of the machine: its name, versions, the memory taken, the fastest reads."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Others share the GPU; read when jax first asks for its devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


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
