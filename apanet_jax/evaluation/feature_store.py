"""Where features are kept while a process lives: on devices, in memory, then in temporary files.

Each place has a budget of bytes. What will be needed when is known beforehand, so where no budget
has room, that gives way which is needed last, and later than what comes; who needs it again makes
it again.
"""

import contextlib
import heapq
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from apanet_jax.runtime.errors import UserError

Arrays = dict[str, np.ndarray | jax.Array]
NextUse = Callable[[Hashable], float]

DEVICE, MEMORY, DISK, BEYOND = range(4)
"""Places; the last is memory beyond the budget, for what one window needs in any case."""

_PREFIX, _LOCK = "features-", "in_use.lock"
_SHARE_OF_FREE_DISK = 0.9
_SECONDS_TO_LOCK = 60


def never(_key: Hashable) -> float:
    """The next use of what nobody is known to need."""
    return math.inf


class Ledger:
    """Decides where things of known sizes are kept, and which of them give way; holds none.

    Attributes:
      peak: the most bytes that each place has held.
    """

    def __init__(self, budgets: tuple[float, float, float]):
        """Starts empty, with the budgets in bytes of devices, memory and disk."""
        self._budgets = (*budgets, math.inf)
        self._used = [0.0] * len(self._budgets)
        self.peak = [0.0] * len(self._budgets)
        self._held: dict[Hashable, tuple[int, float]] = {}
        self._next_use: NextUse = never
        self._farthest: list[tuple[float, int, Hashable]] = []
        self._number = itertools.count()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    @property
    def room(self) -> float:
        """Bytes of all budgets together."""
        return sum(self._budgets[:BEYOND])

    @property
    def budgets(self) -> tuple[float, float, float]:
        """Bytes of devices, memory and disk."""
        return self._budgets[:BEYOND]

    def simulated(self) -> "Ledger":
        """Returns a ledger with the same budgets that holds the same, without the arrays."""
        copy = Ledger(self.budgets)
        copy._held, copy._used = dict(self._held), list(self._used)
        copy.peak = list(self._used)
        return copy

    def place_of(self, key: Hashable) -> int:
        """Returns the place of what is held."""
        return self._held[key][0]

    def size_of(self, key: Hashable) -> float:
        """Returns the bytes of what is held."""
        return self._held[key][1]

    def begin(self, next_use: NextUse) -> None:
        """Begins a stretch of the work, with the next use of every key from there on."""
        self._next_use = next_use
        self._farthest = [(-next_use(key), next(self._number), key) for key in self._held]
        heapq.heapify(self._farthest)

    def drop_beyond(self) -> None:
        """Forgets what is held beyond the budgets."""
        for key in [key for key, (place, _) in self._held.items() if place == BEYOND]:
            self.drop(key)

    def available(self, use: float, places: int = BEYOND) -> float:
        """Returns the bytes in the first places that are free, or needed later than `use`."""
        free = sum(self._budgets[:places]) - sum(self._used[:places])
        return free + sum(
            size
            for key, (place, size) in self._held.items()
            if place < places and self._next_use(key) > use
        )

    def add(
        self, key: Hashable, size: float, *, places: int = BEYOND, required: bool = False
    ) -> int | None:
        """Returns the place of something new, None where it has none.

        Args:
          key: its name.
          size: in bytes.
          places: how many of the places may be used, from the first on.
          required: whether it must be held, if need be beyond the budgets; what is needed later
            gives way before.
        """
        place = self._free(size, places)
        use = self._next_use(key)
        while place is None and self._farthest and -self._farthest[0][0] > use:
            _, _, other = heapq.heappop(self._farthest)
            if other in self._held:
                self.drop(other)
                place = self._free(size, places)
        if place is None and required:
            place = BEYOND
        if place is None:
            return None
        self._held[key] = place, size
        self._used[place] += size
        self.peak[place] = max(self.peak[place], self._used[place])
        heapq.heappush(self._farthest, (-use, next(self._number), key))
        return place

    def drop(self, key: Hashable) -> None:
        """Forgets something."""
        place, size = self._held.pop(key)
        self._used[place] -= size

    def _free(self, size: float, places: int) -> int | None:
        for place in range(places):
            if self._used[place] + size <= self._budgets[place]:
                return place
        return None


class FeatureStore(Ledger):
    """Holds arrays by key, each with a first axis of 1: on a device, in memory or in files."""

    def __init__(
        self,
        *,
        device_bytes: float,
        memory_bytes: float,
        disk_bytes: float,
        directory: Path | None = None,
    ):
        """Starts empty.

        Args:
          device_bytes: the first budget, of all devices together: arrays stay where they are.
          memory_bytes: the second.
          disk_bytes: the third; no more than most of what is free is taken.
          directory: where the temporary folder is made; None: the system's place.
        """
        self.directory = Path(directory or tempfile.gettempdir())
        super().__init__((device_bytes, memory_bytes, min(disk_bytes, _free_disk(self.directory))))
        self._arrays: dict[Hashable, Arrays | dict[str, np.dtype]] = {}
        self._folder: contextlib.ExitStack | None = None
        self._path: Path | None = None

    def put(self, key: Hashable, arrays: Arrays, **options: Any) -> bool:
        """Keeps arrays under a key, if there is room; see `Ledger.add`.

        Raises:
          UserError: the disk is full.
        """
        if key in self:
            return True
        place = self.add(key, sum(array.nbytes for array in arrays.values()), **options)
        if place is None:
            return False
        if place != DEVICE:
            arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if place == DISK:
            self._write(key, arrays)
            arrays = {name: array.dtype for name, array in arrays.items()}
        self._arrays[key] = arrays
        return True

    def get(self, key: Hashable) -> Arrays:
        """Returns what was kept; of a file only what is used is read."""
        held = self._arrays[key]
        if self.place_of(key) != DISK:
            return held
        return {
            name: np.load(self._file(key, name), mmap_mode="r").view(dtype)
            for name, dtype in held.items()
        }

    def drop(self, key: Hashable) -> None:
        """Forgets arrays, and removes their files."""
        if self.place_of(key) == DISK:
            for name in self._arrays[key]:
                self._file(key, name).unlink(missing_ok=True)
        super().drop(key)
        del self._arrays[key]

    def _write(self, key: Hashable, arrays: Arrays) -> None:
        try:
            if self._folder is None:
                self._folder, self._path = _folder(self.directory)
            for name, array in arrays.items():
                # As bytes: NumPy's files do not know bfloat16.
                np.save(self._file(key, name), np.ascontiguousarray(array).view(np.uint8))
        except OSError as error:
            raise UserError(
                f"features could not be kept on disk: {error.strerror or error}; free some space, "
                "name another place with features.directory, set evaluation.disk_gigabytes to "
                "what is free, or pass evaluation.embed_once=False"
            ) from None

    def _file(self, key: Hashable, name: str) -> Path:
        return self._path / ("_".join(map(str, key)) + f"_{name}.npy")


def _free_disk(directory: Path) -> float:
    """Returns how many bytes may be taken where a folder is or will be made."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        return _SHARE_OF_FREE_DISK * shutil.disk_usage(directory).free
    except OSError:
        return 0.0


def _folder(directory: Path) -> tuple[contextlib.ExitStack, Path]:
    """Makes a temporary folder, locked while it is used; removes those of processes that ended."""
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(Timeout, OSError, NotImplementedError):
            # A younger one may be about to be locked.
            if time.time() - left.stat().st_mtime > _SECONDS_TO_LOCK:
                with FileLock(left, timeout=0):
                    shutil.rmtree(left.parent, ignore_errors=True)
    held = contextlib.ExitStack()
    made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=directory)
    path = Path(held.enter_context(made))
    with contextlib.suppress(OSError, NotImplementedError):
        held.enter_context(FileLock(path / _LOCK, timeout=0))
    return held, path
