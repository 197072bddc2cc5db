"""Cosine k-means of feature maps: this package against what else can be installed.

    python experiments/speed/kmeans_benchmark.py [--json=FILE] [--markdown=FILE] [--plot=FILE]
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

import contextlib
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax

from apanet_jax.runtime.errors import Parser, UserError, main_guard
from experiments.harness import Memory, bandwidth, environment, settle
from experiments.speed import kmeans_report
from experiments.speed.kmeans_peers import OURS, PEERS, Peer, Shape, ours

# Length of the directions that the data lies around, beside noise of 1 along each axis.
STRENGTH = 3.0


def _paper(batch: int, channels: int) -> list[Shape]:
    # 3 first: it is the paper's, and tells who is too slow for the others.
    return [Shape(batch, 3600, channels, clusters) for clusters in (3, 1, 2, 4, 5)]


SHAPES = {
    "paper": _paper(4, 2048)[:1],
    "paper2048": [s for batch in (4, 8) for s in _paper(batch, 2048)],
    "paper512": [s for batch in (4, 8) for s in _paper(batch, 512)],
    "quickstart": [Shape(8, 625, 152, 3), Shape(8, 625, 320, 3)],
    "big": [Shape(1, 100_000, 256, 256)],
    "bigger": [Shape(1, 1_000_000, 512, 1024)],
    "small": [Shape(2, 200, 32, 3), Shape(1, 500, 16, 5)],
}


def available(names: list[str], device: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns ours and the peers that can run, and why the others cannot."""
    found, missing = {}, {}
    wanted = {OURS: ours} | {name: PEERS[name] for name in names}
    for name, implementation in wanted.items():
        try:
            found[name] = implementation(device)
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
    memory: dict[str, int] = {}
    for repetition in range(repetitions + 1):
        data = draw(shape, repetition)
        if repetition == 0:
            possible = bandwidth(data[0])
        for name, peer in peers.items():
            if name in failed or max(times[name], default=0.0) > patience:
                continue
            try:
                run = peer.prepare(*data[:2], rounds, data[2])
                settle(0.05)
                watched = name == OURS and repetition == 0
                with Memory() if watched else contextlib.nullcontext() as m:
                    start = time.perf_counter()
                    centres = run()
                    seconds = time.perf_counter() - start
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".split("\n")[0]
                continue
            if m is not None:
                memory[name] = m.bytes
            if repetition == 0:
                first[name], reached[name] = seconds, inertia(data[0], centres)
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
        } | ({"memory_bytes": memory[name]} if name in memory else {})
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


def _chosen(text: str, known: dict[str, Any], option: str, default: list[str]) -> list[str]:
    names = default if text == "all" else [] if text == "none" else text.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{option}={text}: expected all, none or some of {', '.join(known)}")
    return names


@main_guard
def main() -> None:
    """Measures, prints, and writes what was asked for."""
    parser = Parser(
        prog="python experiments/speed/kmeans_benchmark.py",
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
    command = "python " + " ".join(["experiments/speed/kmeans_benchmark.py", *sys.argv[1:]])
    result = environment() | {"commands": [command], "load_average": os.getloadavg()}
    result["missing"] = missing
    result["rows"], result["left_out"] = benchmark(
        shapes,
        peers,
        rounds=arguments.rounds,
        repetitions=arguments.repetitions,
        patience=arguments.patience,
        say=lambda line: print(line, flush=True),
    )
    print(kmeans_report.table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    kmeans_report.write(result, arguments.markdown, arguments.plot)


if __name__ == "__main__":
    main()
