"""What the experiments share: arguments, the device, time and memory, missing runs, and tables.

A script is run from the root of a checkout as `python experiments/FOLDER/NAME.py`. It has a
function `arguments` that returns its parser, and a `main` that takes the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Other programs share the GPU. JAX reads this when it is first asked for its devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
from absl import logging

# Functions that need a config or a run import those themselves: what only measures the device
# works where neither ml_collections nor grain is installed.
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError, main_guard

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ROOT = Path(__file__).parents[1]
"""The checkout."""

OURS = "apanet_jax"
"""The `implementation` of this package's rows."""

Row = dict[str, Any]

_POLL_SECONDS = 0.02
_PACKAGES = (
    *("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "scikit-learn", "faiss-cpu"),
    *("torch_kmeans", "fast_pytorch_kmeans", "kmeans_pytorch", "flash_kmeans"),
)


# Arguments


def parser(doc: str, *, config: str = "", json: bool = False) -> Parser:
    """Returns a parser whose `--help` prints a script's docstring.

    Args:
      doc: the docstring.
      config: what `--config` is for, which is then required; "": there is no such argument.
      json: whether there is `--json=FILE`, see `publish`.
    """
    made = Parser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if config:
        made.add_argument("--config", type=read_config, required=True, help=f"settings: {config}")
    if json:
        made.add_argument("--json", type=Path, help="file that the rows are written to")
    return made


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wraps a script's `main`: bad input is answered in one line (see `errors.main_guard`)."""

    @functools.wraps(main)
    def quiet(argv: Sequence[str] | None = None) -> int | None:
        # Orbax reports every file that it writes, otherwise.
        logging.set_verbosity(logging.FATAL)
        return main(argv)

    return main_guard(quiet)


def read_config(text: str) -> ConfigDict:
    """Returns the config that `--config=NAME[:options]` means, as `apanet_jax.main` reads it.

    Raises:
      UserError: there is no such config, or an option cannot be set.
    """
    from ml_collections import ConfigDict

    from apanet_jax.config.flags import _ByName

    try:
        return ConfigDict(_ByName("config").parse(text))
    except (OSError, SyntaxError, ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--config={text} cannot be read: {error}") from error


def whole(least: int) -> Callable[[str], int]:
    """Returns the type of an argument that is a whole number from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} on, not {text!r}"
            )
        return int(text)

    return number


def add_whole(
    parser: argparse.ArgumentParser, least: int, named: Iterable[tuple[str, int, str]]
) -> None:
    """Adds arguments that are whole numbers from `least` on: name, default and meaning of each."""
    for name, default, meaning in named:
        parser.add_argument(
            f"--{name}", type=whole(least), default=default, help=f"{meaning} ({default})"
        )


def numbers(text: str) -> list[int]:
    """Reads an argument that is a list of whole numbers, such as 0,3, each named once."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers, as in 0,3, not {text!r}")
    return list(dict.fromkeys(map(int, words)))


def some_of(known: Iterable[str], **short: Sequence[str]) -> Callable[[str], list[str]]:
    """Returns the type of an argument that is a list of names, or one of the words in `short`."""

    def names(text: str) -> list[str]:
        chosen = list(short[text]) if text in short else text.split(",")
        for name in chosen:
            if name not in known:
                expected = ", ".join([*short, *known])
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown, expected some of {expected}"
                )
        return chosen

    return names


# The device, time and memory


def environment() -> Row:
    """Returns the device and the versions, as every benchmark's JSON has them."""
    device = jax.devices()[0]
    name = f"{_processor()}, {os.cpu_count()} cores" if device.platform == "cpu" else None
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"device": name or device.device_kind, "versions": versions}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def timed(function: Callable, *arguments) -> tuple[float, Any]:
    """Calls a function and waits for its result; returns the seconds and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, result


class Clock:
    """Started when it is made: seconds by the clock, and of all cores together."""

    def __init__(self):
        """Starts."""
        self._started, self._processor = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._started

    @property
    def processor(self) -> float:
        """What this process has taken of all cores since then, in seconds."""
        return time.process_time() - self._processor


def in_turn(items: Mapping[Any, Any], turn: int) -> list[tuple[Any, Any]]:
    """Returns the items in an order that changes with the turn, so that none is always first."""
    pairs = list(items.items())
    shift = turn % len(pairs)
    return pairs[shift:] + pairs[:shift]


def spread(seconds: Sequence[float]) -> Row:
    """Returns `seconds` (the median), `seconds_min` and `seconds_max`."""
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
    }


def settle(seconds: float) -> None:
    """Pauses on a CPU, where the OpenMP threads of the program before keep a core busy."""
    if jax.default_backend() == "cpu":
        time.sleep(seconds)


class Highest:
    """The highest value that a function returned while a block of code ran: `value`."""

    def __init__(self, function: Callable[[], int], seconds: float):
        """Calls nothing yet; `seconds` lie between two calls."""
        self.value, self._function, self._seconds = 0, function, seconds

    def __enter__(self) -> Highest:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._seconds):
            self.value = max(self.value, self._function())


class Memory:
    """Measures what a block of code takes beyond what was there: `bytes`, sampled every 5 ms.

    On a CPU it is the process's resident memory, compilation included; on a GPU the peak that the
    device reports, which only grows.
    """

    def __enter__(self) -> Memory:
        self._before = self._now()
        self._highest = Highest(self._now, 0.005).__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._highest.__exit__(*error)
        peak = max(self._highest.value, self._now("peak_bytes_in_use"))
        self.bytes = max(0, peak - self._before)

    @staticmethod
    def _now(what: str = "bytes_in_use") -> int:
        stats = jax.devices()[0].memory_stats()
        if stats:
            return stats[what]
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * 4096 if pages.exists() else 0


class Ended(NamedTuple):
    """What a process took.

    Attributes:
      seconds: by the clock.
      processor_seconds: of all cores together.
      peak_bytes: the most memory that it held.
      own_bytes: the most memory that it held, without the pages of files.
      output: what it printed.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    own_bytes: int
    output: str


def run(
    command: Sequence[str | os.PathLike],
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Runs a command as a process of its own, to its end (Linux).

    Args:
      command: the program and its arguments.
      folder: the folder that it is run in; None: this one.
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
        peak = own = ended = 0
        while not ended:
            # The usage of wait4 would count what this process held when it started the other.
            held = _held_bytes(process.pid)
            peak, own = max(peak, held.get("VmHWM", 0)), max(own, held.get("RssAnon", 0))
            time.sleep(_POLL_SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        printed.seek(0)
        output = printed.read()
    if status:
        raise UserError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return Ended(seconds, usage.ru_utime + usage.ru_stime, peak, own, output)


def _held_bytes(process: int) -> dict[str, int]:
    """Returns the memory of a process by the names of /proc/PID/status; empty once it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        fields = (line.split() for line in lines if line.endswith(" kB"))
        return {name.rstrip(":"): 1024 * int(kilobytes) for name, kilobytes, _ in fields}
    return {}


# Runs and episodes


def run_missing(config: ConfigDict, workdir: Path) -> None:
    """Trains and scores the runs of a config that are not finished in `workdir`, seed by seed.

    Raises:
      UserError: for settings, data or weights that cannot be used, before anything is trained.
    """
    from apanet_jax.runs.run import RunMaker
    from apanet_jax.runs.scoring import evaluate_checkpoints
    from apanet_jax.runs.sweep import is_finished, parts
    from apanet_jax.runtime.compilation import keep_compiled
    from apanet_jax.training.loop import train
    from apanet_jax.training.side_by_side import train_side_by_side

    pending = [part for part in parts(config) if not is_finished(part, workdir)]
    keep_compiled(config.compilation_cache)
    maker = RunMaker()
    runs = [(maker.make(part.config), workdir / part.folder) for part in pending]
    if config.sweep.side_by_side and runs:
        train_side_by_side([(one.task(), folder, None) for one, folder in runs])
    for number, (one, folder) in enumerate(runs, 1):
        print(f"run {number} of {len(runs)}: {folder.relative_to(workdir)}", flush=True)
        train(one.task(), folder)
        evaluate_checkpoints(one, folder)


def noise_episodes(batch: int, shot: int, size: int, seed: int | Sequence[int] = 0) -> Row:
    """Returns a batch of training episodes: noise, with labels of 8 x 8 blocks of 0, 1 and 255."""
    rng = np.random.default_rng(seed)

    def labels(*leading):
        blocks = rng.choice(np.array([0, 1, 255], np.uint8), (*leading, 8, 8), p=[0.6, 0.35, 0.05])
        side = -(-size // 8)
        return blocks.repeat(side, -2).repeat(side, -1)[..., :size, :size].copy()

    return {
        "query_image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "query_label": labels(batch),
        "support_images": rng.integers(0, 256, (batch, shot, size, size, 3), np.uint8),
        "support_labels": labels(batch, shot),
    }


# Tables and files


def table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]]) + "\n"


def milliseconds(row: Row, form: str = ".1f") -> str:
    """Returns the median and, in brackets, the range of what `spread` made."""
    median, low, high = (
        f"{1e3 * row[name]:{form}}" for name in ("seconds", "seconds_min", "seconds_max")
    )
    return f"{median} ({low} to {high})"


def write_page(path: Path, text: str) -> None:
    """Writes a page; what follows its first second-level heading are notes by hand, and stays."""
    before = path.read_text() if path.exists() else ""
    _, heading, notes = before.partition("\n## ")
    write_bytes(path, (text + heading + notes).encode())


def publish(result: Row, text: str, path: Path | None) -> None:
    """Prints a table, and writes the result as JSON where `--json` asked for it."""
    print(text)
    if path:
        write_json(path, result)
