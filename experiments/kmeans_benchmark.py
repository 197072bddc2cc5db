"""Cosine k-means of feature maps: this package against what else can be installed.

    python experiments/kmeans_benchmark.py [--json=FILE] [--markdown=FILE] [--plot=FILE]
        [--peers=all|none|NAME,…] [--device=cpu|gpu] [--shapes=all|GROUP,…] [--rounds=10]

Everybody clusters the same unit vectors in the same process, in turn, from the same initial centres
for the same number of rounds, with other data in each repetition. The first call is timed apart.
`inertia` is computed here, in NumPy, from the centres that an implementation returns: the sum over
positions of 1 - cosine to the closest, of the first repetition's data.

`bytes_per_second` is what reading the features once a round, and once for the last assignment,
would move; `read_bytes_per_second` is the best of several plain reads and copies of the same array.
`memory_bytes` is what our first call took beyond its input.
Peers are installed by requirements-dev.txt, except flash-kmeans, which needs a GPU; those that
are not there are listed as missing. One that took longer than --patience seconds for a shape is
left out of the following ones, and listed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
from kmeans_peers import PEERS, Peer

from apanet_jax.errors import UserError, main_guard
from apanet_jax.kernels import kmeans

OURS = "apanet_jax"
# Length of the directions that the data lies around, beside noise of 1 along each axis.
STRENGTH = 3.0


class Shape(NamedTuple):
    """What is clustered: `[batch, positions, channels]`, into how many clusters."""

    batch: int
    positions: int
    channels: int
    clusters: int


def _paper(batch: int, channels: int) -> list[Shape]:
    # 3 first: it is the paper's, and tells who is too slow for the others.
    return [Shape(batch, 3600, channels, clusters) for clusters in (3, 1, 2, 4, 5)]


SHAPES = {
    "paper2048": [s for batch in (4, 8) for s in _paper(batch, 2048)],
    "paper512": [s for batch in (4, 8) for s in _paper(batch, 512)],
    "quickstart": [Shape(8, 625, 152, 3), Shape(8, 625, 320, 3)],
    "big": [Shape(1, 100_000, 256, 256)],
    "bigger": [Shape(1, 1_000_000, 512, 1024)],
    "small": [Shape(2, 200, 32, 3), Shape(1, 500, 16, 5)],
}


def ours(device: str) -> Peer:
    """This package: normalises by itself, and returns assignment and inertia too."""

    def prepare(features, centres, rounds, seeds):
        x, start = jax.block_until_ready(jax.device_put((features, centres)))

        def run():
            result = kmeans(x, start.shape[1], rounds=rounds, init=start)
            return np.asarray(jax.block_until_ready(result).centres)

        return run

    return Peer(prepare, "on a CPU, rounds that would change nothing are left out")


def available(names: list[str], device: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns the peers that can run, and why the others cannot."""
    found, missing = {OURS: ours(device)}, {}
    for name in names:
        try:
            found[name] = PEERS[name](device)
        except ImportError as error:
            missing[name] = str(error).split("\n")[0]
    return found, missing


def draw(shape: Shape, repetition: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns unit vectors, initial centres, and the seed that drew each picture's centres."""
    features = _features(*shape[:3], repetition)
    seeds = [1000 * repetition + picture for picture in range(shape.batch)]
    centres = np.stack(
        [
            x[np.random.RandomState(seed).choice(shape.positions, shape.clusters, replace=False)]
            for x, seed in zip(features, seeds, strict=True)
        ]
    )
    return features, centres, seeds


# Shapes that differ in their clusters alone share their data; the largest is 236 MB.
@functools.lru_cache(maxsize=6)
def _features(batch, positions, channels, repetition) -> np.ndarray:
    """Returns unit vectors around four directions, so weakly that centres still move at the end."""
    rng = np.random.default_rng([batch, positions, channels, repetition])
    features = rng.standard_normal((batch, positions, channels), np.float32)
    directions = rng.standard_normal((batch, 4, channels), np.float32)
    directions *= np.float32(STRENGTH / np.sqrt(channels))
    for picture, towards in zip(features, directions, strict=True):
        picture += towards[rng.integers(0, 4, positions)]
        picture /= np.linalg.norm(picture, axis=-1, keepdims=True)
    return features


def inertia(features: np.ndarray, centres: Any) -> float:
    """Returns the sum over all positions of 1 - cosine to the closest centre."""
    total = 0.0
    for x, c in zip(features, centres, strict=True):
        c = np.asarray(c, np.float32)
        c = c / np.maximum(np.linalg.norm(c, axis=-1, keepdims=True), 1e-12)
        for start in range(0, len(x), 10_000):
            total += float(np.sum(1.0 - np.max(x[start : start + 10_000] @ c.T, -1), dtype=float))
    return total


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
    best = 0.0
    for function, passes in attempts:
        for _ in range(8):
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            best = max(best, passes * x.nbytes / (time.perf_counter() - start))
    return best


def measure(
    shape: Shape,
    peers: dict[str, Peer],
    rounds: int,
    repetitions: int,
    patience: float,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Times everybody in turn on one shape, and returns a row for each."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    first: dict[str, float] = {}
    reached: dict[str, float] = {}
    failed: dict[str, str] = {}
    memory = 0
    for repetition in range(repetitions + 1):
        data = draw(shape, repetition)
        if repetition == 0:
            possible = bandwidth(data[0])
        for name, peer in peers.items():
            if name in failed or (repetition > 0 and first[name] > patience):
                continue
            try:
                run = peer.prepare(*data[:2], rounds, data[2])
                # OpenMP's threads keep a core busy for a while after the one before.
                time.sleep(0.05)
                with Memory() if (name, repetition) == (OURS, 0) else contextlib.nullcontext() as m:
                    start = time.perf_counter()
                    centres = run()
                    seconds = time.perf_counter() - start
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".split("\n")[0]
                continue
            memory = memory if m is None else m.bytes
            if repetition == 0:
                first[name], reached[name] = seconds, inertia(data[0], centres)
                # A run that long holds no compilation worth telling apart: it counts.
                times[name] = [seconds] if seconds > patience else []
            else:
                times[name].append(seconds)
    rows = []
    for name, peer in peers.items():
        row = {"implementation": name} | shape._asdict() | {"rounds": rounds}
        if name in failed:
            rows.append(row | {"failed": failed[name]})
            continue
        median = statistics.median(times[name])
        moved = 4 * shape.batch * shape.positions * shape.channels * (rounds + 1)
        row |= {
            "seconds": median,
            "seconds_min": min(times[name]),
            "seconds_max": max(times[name]),
            "repetitions": len(times[name]),
            "first_call_seconds": first[name],
            "inertia": reached[name],
            "bytes_per_second": moved / median,
            "read_bytes_per_second": possible,
        } | ({"memory_bytes": memory} if name == OURS else {})
        rows.append(row | ({"note": peer.note} if peer.note else {}))
        say(
            f"{str(tuple(shape)):28} {name:20} {median:9.4f} s"
            f" ({row['seconds_min']:.4f} to {row['seconds_max']:.4f})  inertia {reached[name]:.2f}"
        )
    return rows


def benchmark(
    shapes: list[Shape],
    peers: dict[str, Peer],
    *,
    rounds: int,
    repetitions: int,
    patience: float,
    say: Callable[[str], None] = print,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measures all shapes; returns the rows, and who was left out of later shapes and why."""
    rows, left_out = [], {}
    for shape in shapes:
        present = {
            name: peer
            for name, peer in peers.items()
            if name not in left_out or np.prod(shape) < left_out[name][0]
        }
        for row in measure(shape, present, rounds, repetitions, patience, say):
            rows.append(row)
            name = row["implementation"]
            if name != OURS and row.get("seconds", 0) > patience:
                size, reason = np.prod(shape), f"{row['seconds']:.1f} s for {tuple(shape)}"
                if name not in left_out or size < left_out[name][0]:
                    left_out[name] = (size, reason)
    return rows, {name: f"left out of larger shapes: {r}" for name, (_, r) in left_out.items()}


def table(result: dict[str, Any]) -> str:
    """Returns Markdown: a line a shape, a column an implementation, milliseconds."""
    names = list(dict.fromkeys(row["implementation"] for row in result["rows"]))
    shapes = list(dict.fromkeys(_key(row) for row in result["rows"]))
    cells = {(_key(row), row["implementation"]): row for row in result["rows"]}
    head = ["batch x positions x channels, k", *names, "best peer / ours", "reads / ours"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for shape in shapes:
        own = cells[shape, OURS]
        others = [
            cells[shape, name]["seconds"]
            for name in names
            if name != OURS and "seconds" in cells.get((shape, name), {})
        ]
        line = [f"{shape[0]} x {shape[1]} x {shape[2]}, {shape[3]}"]
        line += [_cell(cells.get((shape, name)), own["inertia"]) for name in names]
        line.append(f"{min(others) / own['seconds']:.2f}" if others else "")
        line.append(f"{own['bytes_per_second'] / own['read_bytes_per_second']:.2f}")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _key(row) -> tuple:
    return tuple(row[name] for name in Shape._fields)


def _cell(row, best) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    spread = f"{1e3 * row['seconds']:.4g} ({1e3 * row['seconds_min']:.4g}"
    text = f"{spread} to {1e3 * row['seconds_max']:.4g})"
    more = row["inertia"] / best - 1 if best > 0 else 0.0
    return text + (f", inertia {100 * more:+.2f} %" if abs(more) >= 5e-5 else "")


def markdown(result: dict[str, Any], command: str) -> str:
    """Returns the page for experiments/results."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Cosine k-means: time for all rounds",
        "",
        f"    {command}",
        "",
        f"{result['device']}. {versions}.",
        f"Load average of the machine when it started: {result['load_average'][0]:.2f}.",
        "",
        "Milliseconds: median (fastest to slowest repetition), for the same unit vectors, initial",
        "centres and rounds. Inertia relative to ours where it differs by 0.005 % or more. Last",
        "column: the time of plain reads of the features, one a round and one for the last",
        "assignment, over our time.",
        "",
        table(result),
        "",
    ]
    notes = {row["implementation"]: row["note"] for row in result["rows"] if "note" in row}
    lines += [f"- {name}: {note}." for name, note in notes.items()]
    lines += [f"- {name}: {reason}." for name, reason in result["left_out"].items()]
    lines += [f"- {name}: missing here ({reason})." for name, reason in result["missing"].items()]
    for row in result["rows"]:
        if "failed" in row:
            lines.append(f"- {row['implementation']} failed for {_key(row)}: {row['failed']}")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws seconds over clusters, a panel for each batch, positions and channels."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "seconds" in row]
    panels = list(dict.fromkeys(_key(row)[:3] for row in rows))
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns))
    for axis, panel in zip(axes, panels, strict=False):
        for number, name in enumerate(names):
            own = sorted(
                (row for row in rows if row["implementation"] == name and _key(row)[:3] == panel),
                key=lambda row: row["clusters"],
            )
            middle = [row["seconds"] for row in own]
            low = [row["seconds"] - row["seconds_min"] for row in own]
            high = [row["seconds_max"] - row["seconds"] for row in own]
            axis.errorbar(
                [row["clusters"] for row in own],
                middle,
                (low, high),
                marker="o",
                color=f"C{number}",
                linewidth=2.5 if name == OURS else 1,
                label=name,
            )
        axis.set(title=" x ".join(map(str, panel)), xlabel="clusters", yscale="log")
        axis.set_xticks(sorted({row["clusters"] for row in rows if _key(row)[:3] == panel}))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def environment() -> dict[str, Any]:
    """Returns the device and the versions, as every benchmark's JSON has them."""
    device = jax.devices()[0]
    name = f"{_processor()}, {os.cpu_count()} cores" if device.platform == "cpu" else None
    packages = ("jax", "numpy", "scikit-learn", "faiss-cpu", "torch", "torch_kmeans")
    packages += ("fast_pytorch_kmeans", "kmeans_pytorch", "flash_kmeans")
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


def _chosen(text: str, known: dict[str, Any], option: str, default: list[str]) -> list[str]:
    names = default if text == "all" else [] if text == "none" else text.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{option}={text}: expected all, none or some of {', '.join(known)}")
    return names


@main_guard
def main() -> None:
    """Measures, prints, and writes what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python experiments/kmeans_benchmark.py",
        description="Cosine k-means of feature maps: this package against installed peers.",
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--markdown", type=Path, help="write a page with a table there")
    parser.add_argument("--plot", type=Path, help="write a picture there (needs matplotlib)")
    parser.add_argument("--peers", default="all", help=f"all, none or some of {','.join(PEERS)}")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: what jax finds")
    parser.add_argument("--shapes", default="all", help=f"all, or some of {','.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds (5)")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.repetitions < 1:
        raise UserError("--rounds and --repetitions: expected at least 1")
    if arguments.device:
        platform_name = {"cpu": "cpu", "gpu": "cuda"}[arguments.device]
        jax.config.update("jax_platforms", platform_name)
    try:
        device = {"cpu": "cpu"}.get(jax.default_backend(), "gpu")
    except RuntimeError as error:
        raise UserError(f"--device={arguments.device}: jax finds none: {error}") from None
    groups = ["paper2048", "paper512", "quickstart", "big"] + (
        ["bigger"] if device == "gpu" else []
    )
    shapes = [s for g in _chosen(arguments.shapes, SHAPES, "--shapes", groups) for s in SHAPES[g]]
    peers, missing = available(_chosen(arguments.peers, PEERS, "--peers", list(PEERS)), device)
    for name, reason in missing.items():
        print(f"missing: {name} ({reason})")
    result = environment() | {"load_average": os.getloadavg(), "missing": missing}
    result["rows"], result["left_out"] = benchmark(
        shapes,
        peers,
        rounds=arguments.rounds,
        repetitions=arguments.repetitions,
        patience=arguments.patience,
        say=lambda line: print(line, flush=True),
    )
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.markdown:
        command = "python " + " ".join(["experiments/kmeans_benchmark.py", *sys.argv[1:]])
        arguments.markdown.write_text(markdown(result, command))
    if arguments.plot:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
