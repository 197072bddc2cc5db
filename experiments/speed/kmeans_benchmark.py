"""Cosine k-means of feature maps: this package against other packages.

    python experiments/speed/kmeans_benchmark.py [--peers=all|none|NAME,…] [--device=cpu|gpu]
        [--shapes=all|GROUP,…] [--rounds=10] [--repetitions=5] [--patience=5] [--json=FILE]
        [--markdown=FILE]

All implementations cluster the same unit vectors in the same process, in turn, from the same
initial centres for the same number of rounds, with other data in each repetition. The first call is
timed separately. `inertia` is computed here, in NumPy, from the centres that an implementation
returns: the sum over positions of 1 - cosine to the closest centre, for the first repetition.

`bytes_per_second` is what reading the features once a round, and once for the last assignment,
would move; `read_bytes_per_second` is the best of several plain reads and copies of the same array.
`memory_bytes` is what our first call took beyond its input. requirements-dev.txt installs the
peers, except flash-kmeans, which needs a GPU; peers that are not installed are listed as missing.
One that took longer than --patience seconds for a shape is left out of larger ones, and listed.
`kmeans_report.py` makes one page of several JSON files.
"""

import contextlib
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed import kmeans_report
from experiments.speed.kmeans_peers import PEERS, Peer, Shape, ours

STRENGTH = 3.0
"""Length of the directions that the data lies around, beside noise of 1 along each axis."""


def _paper(batch: int, channels: int) -> list[Shape]:
    # 3 first: it is the paper's, and shows which peers are too slow for the others.
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
DEFAULT_SHAPES = ("paper2048", "paper512", "quickstart", "big")


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    peers = harness.some_of(PEERS, all=list(PEERS), none=[])
    parser.add_argument("--peers", type=peers, default="all", help="all, none or some, by name")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: the one that jax finds")
    groups = harness.some_of(SHAPES, all=DEFAULT_SHAPES)
    parser.add_argument("--shapes", type=groups, default="all", help=f"all or {','.join(SHAPES)}")
    parser.add_argument("--rounds", type=harness.whole(1), default=10, help="of k-means (10)")
    parser.add_argument("--repetitions", type=harness.whole(1), default=5, help="timed calls (5)")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds (5)")
    parser.add_argument("--markdown", type=Path, help="write a page there")
    return parser


def available(names: list[str], device: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns ours and the peers that can run, and why the others cannot."""
    found, missing = {}, {}
    for name, implementation in ({OURS: ours} | {name: PEERS[name] for name in names}).items():
        try:
            found[name] = implementation(device)
        except ImportError as error:
            missing[name] = str(error).split("\n")[0]
    return found, missing


def draw(shape: Shape, repetition: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns unit vectors, initial centres, and the seed that drew each image's centres."""
    features = _features(*shape[:3], repetition)
    seeds = [1000 * repetition + image for image in range(shape.batch)]
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
    for image, towards in zip(features, directions, strict=True):
        image += towards[rng.integers(0, 4, positions)]
        image /= np.linalg.norm(image, axis=-1, keepdims=True)
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
    # Several calls without waiting: on a GPU a call takes longer than the reading.
    together = 1 if jax.default_backend() == "cpu" else 16
    best = 0.0
    for function, passes in attempts:
        jax.block_until_ready(function(x))
        for _ in range(8):
            seconds, _ = harness.timed(lambda f=function: [f(x) for _ in range(together)])
            best = max(best, together * passes * x.nbytes / seconds)
    return best


def measure(
    shape: Shape, peers: dict[str, Peer], rounds: int, repetitions: int, patience: float
) -> list[Row]:
    """Times all implementations in turn on one shape; returns a row for each."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    first: dict[str, Row] = {}
    failed: dict[str, str] = {}
    possible = bandwidth(draw(shape, 0)[0])
    for repetition in range(repetitions + 1):
        data = draw(shape, repetition)
        for name, peer in peers.items():
            if name in failed or max(times[name], default=0.0) > patience:
                continue
            watched = name == OURS and repetition == 0
            try:
                seconds, centres, memory = _call(peer, data, rounds, watched)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".split("\n")[0]
                continue
            if repetition:
                times[name].append(seconds)
            else:
                first[name] = {
                    "first_call_seconds": seconds,
                    "inertia": inertia(data[0], centres),
                } | memory
    rows = []
    for name, peer in peers.items():
        row = {"implementation": name} | shape._asdict() | {"rounds": rounds}
        if name in failed:
            rows.append(row | {"failed": failed[name]})
            continue
        row |= harness.spread(times[name]) | {"repetitions": len(times[name])} | first[name]
        moved = 4 * shape.batch * shape.positions * shape.channels * (rounds + 1)
        row |= {"bytes_per_second": moved / row["seconds"], "read_bytes_per_second": possible}
        rows.append(row | ({"note": peer.note} if peer.note else {}))
        text = f"{tuple(shape)}, {name}: {harness.milliseconds(row)} ms"
        print(f"{text}, inertia {row['inertia']:.2f}", file=sys.stderr, flush=True)
    return rows


def _call(peer: Peer, data, rounds: int, watched: bool) -> tuple[float, Any, Row]:
    """Returns the seconds of a call, its centres, and `memory_bytes` if that is watched."""
    run = peer.prepare(*data[:2], rounds, data[2])
    harness.settle(0.05)
    with harness.Memory() if watched else contextlib.nullcontext() as memory:
        start = time.perf_counter()
        centres = run()
        seconds = time.perf_counter() - start
    return seconds, centres, {"memory_bytes": memory.bytes} if watched else {}


def benchmark(
    shapes: list[Shape],
    peers: dict[str, Peer],
    *,
    rounds: int,
    repetitions: int,
    patience: float,
) -> tuple[list[Row], dict[str, str]]:
    """Measures all shapes; returns the rows, and the peers that were left out and why."""
    rows: list[Row] = []
    left_out: dict[str, tuple[int, str]] = {}
    for shape in shapes:
        present = {
            name: peer
            for name, peer in peers.items()
            if name not in left_out or np.prod(shape) < left_out[name][0]
        }
        for row in measure(shape, present, rounds, repetitions, patience):
            rows.append(row)
            name = row["implementation"]
            if name != OURS and row.get("seconds", 0) > patience:
                size, reason = np.prod(shape), f"{row['seconds']:.1f} s for {tuple(shape)}"
                if name not in left_out or size < left_out[name][0]:
                    left_out[name] = (size, reason)
    return rows, {name: f"left out of larger shapes: {r}" for name, (_, r) in left_out.items()}


@harness.command
def main(argv: list[str] | None = None) -> None:
    """Measures, prints a table, and writes the rows."""
    given = arguments().parse_args(argv)
    if given.device:
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[given.device])
    try:
        device = {"cpu": "cpu"}.get(jax.default_backend(), "gpu")
    except RuntimeError as error:
        raise UserError(f"--device={given.device}: jax finds none: {error}") from None
    peers, missing = available(given.peers, device)
    command = ["python experiments/speed/kmeans_benchmark.py", *(argv or sys.argv[1:])]
    result = harness.environment() | {
        "commands": [" ".join(command)],
        "load_average": os.getloadavg(),
        "missing": missing,
    }
    result["rows"], result["left_out"] = benchmark(
        [shape for group in given.shapes for shape in SHAPES[group]],
        peers,
        rounds=given.rounds,
        repetitions=given.repetitions,
        patience=given.patience,
    )
    harness.publish(result, kmeans_report.table(result), given.json)
    if given.markdown:
        harness.write_page(given.markdown, kmeans_report.page(result))


if __name__ == "__main__":
    main()
