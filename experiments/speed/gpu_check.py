"""What there is to know of a device, in one command of some minutes: right, how fast, how large.

    python experiments/speed/gpu_check.py [--json=FILE] [--small] [--only=NAME,…] [--minutes=7]

Sections: `kernels` (against NumPy in float64, and twice for the same bits), `kmeans` (the benchmark
of kmeans_benchmark.py, with the peers that are installed), `branch` (a training step on kept
features with the class-agnostic branch and without), `training` (a whole step from pictures on),
`evaluation` (episodes a second), each with the peak of memory where the device tells it. Weights
are random. It needs jax, flax, optax, orbax-checkpoint and numpy; on a CPU take --small.

A section that fails is reported as failed and the next one goes on; none is begun after --minutes.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

if importlib.util.find_spec("jaxtyping") is None:
    # Shapes in signatures are for readers; without the package anything stands there.
    class _Anything:
        def __class_getitem__(cls, item):
            return cls

    stand_in = types.ModuleType("jaxtyping")
    stand_in.__getattr__ = lambda name: _Anything
    sys.modules["jaxtyping"] = stand_in

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.kernels import KMeans, cluster_average, kmeans
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.models.resnet import RESNET50, ResNet
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import Parser, UserError, main_guard
from apanet_jax.training import train_step
from experiments import harness
from experiments.speed import kmeans_benchmark

Row = dict[str, Any]


class Kept(NamedTuple):
    """Kept features of an episode batch, and the head that is trained on them."""

    batch: int
    side: int
    middle: int
    high: int | None
    label: int
    channels: int


# A random backbone's features are in the thousands: with any usual rate the loss overflows.
_RATE = 1e-10

LITE0 = Kept(8, 25, 152, None, 193, 64)
PAPER = Kept(4, 60, 1536, 2048, 473, 256)
SMALL = Kept(2, 9, 16, 24, 65, 8)


def check_kernels(small: bool) -> Iterator[Row]:
    """Compares with NumPy in float64; a row each, with the largest difference."""
    shapes = [(2, 300, 64, 3), (3, 101, 7, 5), (1, 2000, 32, 40), (2, 301, 256, 3)]
    for batch, positions, channels, clusters in shapes if small else [(4, 3600, 2048, 3), *shapes]:
        rng = np.random.default_rng(positions)
        features = rng.standard_normal((batch, positions, channels), np.float32)
        features += 2 * features[:, :clusters][:, rng.integers(0, clusters, positions)]
        weights = rng.random((batch, positions), np.float32)
        init = features[:, :clusters]
        for dtype in (jnp.float32, jnp.bfloat16):
            yield _check_kmeans(jnp.asarray(features, dtype), weights, init)
        result = kmeans(features, clusters, init="k-means++", key=jax.random.key(0))
        yield {
            "kernel": "k-means++",
            "shape": [batch, positions, channels, clusters],
            "right": bool(np.isfinite(result.inertia).all()),
        }
        yield _check_pooling(features, weights, clusters)
    model = KMeans(3, metric="euclidean", init=features[0, :3], tol=0).fit(features[0])
    distance = np.square(features[0][:, None].astype(float) - model.cluster_centers_).sum(-1)
    error = abs(model.inertia_ / distance.min(1).sum() - 1)
    yield {"kernel": "KMeans", "largest_error": float(error), "right": bool(error < 1e-4)}


def _check_kmeans(features, weights, init) -> Row:
    clusters = init.shape[1]
    arguments = {"rounds": 5, "weights": weights, "init": init}
    first = jax.device_get(kmeans(features, clusters, **arguments))
    again = jax.device_get(kmeans(features, clusters, **arguments))
    exact = np.asarray(features).astype(np.float64)
    share, error = [], []
    for x, w, c, nearest, found in zip(
        exact, weights, init, first.assignment, first.centres, strict=True
    ):
        expected, centres = _exact_kmeans(x, w, c, 5)
        share.append(np.mean(nearest == expected))
        error.append(np.abs(found - centres).max())
    return {
        "kernel": "kmeans",
        "shape": [*features.shape, clusters],
        "type": features.dtype.name,
        "same_assignment": float(np.mean(share)),
        "largest_error": float(max(error)),
        "same_bits_twice": all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)),
        "right": bool(min(share) > 0.999 and max(error) < 1e-3),
    }


def _exact_kmeans(x, weights, centres, rounds):
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    centres = centres / np.linalg.norm(centres, axis=-1, keepdims=True).astype(float)
    for _ in range(rounds):
        member = np.argmax(x @ centres.T, -1)[:, None] == np.arange(len(centres))
        sums = (member * weights[:, None].astype(float)).T @ x
        length = np.linalg.norm(sums, axis=-1, keepdims=True)
        centres = np.where(length > 1e-6, sums / np.maximum(length, 1e-12), centres)
    return np.argmax(x @ centres.T, -1), centres


def _check_pooling(features, weights, clusters) -> Row:
    rng = np.random.default_rng(0)
    batch, positions, channels = features.shape
    assignment = rng.integers(0, clusters, (batch, positions))
    towards = rng.standard_normal((batch, clusters, channels), np.float32)

    def loss(x):
        prototypes, _ = cluster_average(x, assignment, weights, clusters)
        return jnp.sum(prototypes * towards), prototypes

    gradient, prototypes = jax.jit(jax.grad(loss, has_aux=True))(features)
    masks = (assignment[..., None] == np.arange(clusters)) * weights[..., None].astype(float)
    areas = np.maximum(masks.sum(1), 1e-12)[..., None]
    exact = np.swapaxes(masks, 1, 2) @ features / areas
    error = max(
        np.abs(prototypes - exact).max(), np.abs(gradient - masks @ (towards / areas)).max()
    )
    return {
        "kernel": "cluster_average",
        "shape": [batch, positions, channels, clusters],
        "largest_error": float(error),
        "right": bool(error < 1e-4),
    }


def benchmark_kmeans(small: bool) -> Iterator[Row]:
    """The k-means benchmark, with the peers that are there."""
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    names = ["small"] if small else ["paper2048", "quickstart", "big"]
    shapes = [shape for name in names for shape in kmeans_benchmark.SHAPES[name]]
    if not small:
        shapes = [s for s in shapes if s.positions != 3600 or s.clusters == 3]
    peers, missing = kmeans_benchmark.available(list(kmeans_benchmark.PEERS), device)
    for name, reason in missing.items():
        yield {"implementation": name, "missing": reason}
    repetitions = 2 if small else 5
    rows, _ = kmeans_benchmark.benchmark(
        shapes, peers, rounds=10, repetitions=repetitions, patience=2.0, say=_say
    )
    yield from rows
    if device == "gpu" and not small:
        ours = {kmeans_benchmark.OURS: peers[kmeans_benchmark.OURS]}
        for shape in kmeans_benchmark.SHAPES["bigger"]:
            yield from kmeans_benchmark.measure(shape, ours, 3, 1, 60.0, _say)


def compare_branch(small: bool) -> Iterator[Row]:
    """A training step on kept features with 3 clusters and with none, in turn."""
    for name, size in (("small", SMALL),) if small else (("lite0", LITE0), ("resnet50", PAPER)):
        yield from branch(name, size, repetitions=3 if small else 9)


def branch(name: str, size: Kept, repetitions: int) -> Iterator[Row]:
    """Times both; a row each, with the branch's share of the longer step."""
    levels = ("middle",) if size.high is None else ("high",)
    steps = {}
    for clusters in (0, 3):
        head = APANet(
            channels=size.channels, num_clusters=clusters, priors=levels, cluster_features=levels[0]
        )
        steps[clusters] = _Step(Network(None, head), {}, _kept_batch(size))
    times: dict[int, list[float]] = {0: [], 3: []}
    for _ in range(repetitions):
        for clusters, step in steps.items():
            times[clusters].append(step.seconds())
    medians = {clusters: statistics.median(own) for clusters, own in times.items()}
    for clusters, own in times.items():
        yield {
            "features": name,
            "batch": size.batch,
            "clusters": clusters,
            "seconds": medians[clusters],
            "seconds_min": min(own),
            "seconds_max": max(own),
            "compile_seconds": steps[clusters].compile_seconds,
        } | ({"share_of_branch": 1 - medians[0] / medians[3]} if clusters else {})


def whole_step(small: bool) -> Iterator[Row]:
    """A training step from pictures on, with a frozen ResNet-50."""
    side, batch, channels = (65, 2, 8) if small else (473, 4, 256)
    for dtype in (jnp.float32,) if small else (jnp.float32, jnp.bfloat16):
        network = Network(ResNet(RESNET50, dtype=dtype), APANet(channels=channels))
        step = _Step(network, _random_backbone(network, side), _pictures(batch, side))
        times = [step.seconds() for _ in range(2 if small else 10)]
        yield {
            "backbone": "resnet50",
            "type": jnp.dtype(dtype).name,
            "batch": batch,
            "side": side,
            "seconds": statistics.median(times),
            "seconds_min": min(times),
            "seconds_max": max(times),
            "compile_seconds": step.compile_seconds,
            "loss": step.loss,
            "right": bool(np.isfinite(step.loss)),
        }


def evaluation(small: bool) -> Iterator[Row]:
    """Episodes a second from pictures to masks, 1 and 5 supports each."""
    side, batch, channels = (65, 2, 8) if small else (473, 8, 256)
    network = Network(ResNet(RESNET50), APANet(channels=channels))
    backbone = _random_backbone(network, side)
    for shots in (1,) if small else (1, 5):
        episodes = _pictures(batch, side, shots)
        head = _random_head(network, backbone, episodes)
        run = jax.jit(lambda h, b, e: jnp.argmax(network(h, b, e).logits, -1))
        jax.block_until_ready(run(head, backbone, episodes))
        times = []
        for _ in range(2 if small else 10):
            start = time.perf_counter()
            jax.block_until_ready(run(head, backbone, episodes))
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        yield {
            "backbone": "resnet50",
            "shots": shots,
            "batch": batch,
            "side": side,
            "seconds": seconds,
            "seconds_min": min(times),
            "seconds_max": max(times),
            "episodes_per_second": batch / seconds,
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Step:
    """A compiled training step that goes on from call to call."""

    def __init__(self, network, backbone, batch):
        transformation = train_step.optimizer(lambda count: _RATE)
        head = _random_head(network, backbone, batch)
        state = train_step.TrainState(jnp.zeros((), jnp.int32), head, transformation.init(head))
        mesh = data_mesh(1)
        whole = replicated(mesh)
        self._state, self._backbone = jax.device_put((state, backbone), whole)
        self._batch = jax.device_put(batch, batch_sharding(mesh))
        self._step = train_step.make_step(network, transformation, 0.4, mesh)
        start = time.perf_counter()
        self.seconds()
        self.compile_seconds = time.perf_counter() - start

    def seconds(self) -> float:
        start = time.perf_counter()
        self._state, losses = self._step(
            self._state, self._backbone, self._batch, jax.random.key(0)
        )
        self.loss = float(losses.total)
        return time.perf_counter() - start


def _kept_batch(size: Kept):
    rng = np.random.default_rng(0)
    batch = _labels(rng, size.batch, 1, size.label)
    levels = {"middle": size.middle, "high": size.high}
    for level, channels in levels.items():
        if channels is not None:
            for role, leading in (("query", ()), ("support", (1,))):
                shape = (size.batch, *leading, size.side, size.side, channels)
                batch[f"{role}_{level}"] = np.maximum(rng.standard_normal(shape, np.float32), 0)
    return batch


def _pictures(batch: int, side: int, shots: int = 1):
    rng = np.random.default_rng(0)
    pictures = {
        "query_image": rng.integers(0, 256, (batch, side, side, 3), np.uint8),
        "support_images": rng.integers(0, 256, (batch, shots, side, side, 3), np.uint8),
    }
    return pictures | _labels(rng, batch, shots, side)


def _labels(rng, batch, shots, side):
    def blobs(*leading):
        coarse = rng.choice(np.array([0, 1], np.uint8), (*leading, 4, 4))
        index = np.arange(side) * 4 // side
        return coarse[..., index[:, None], index]

    return {"query_label": blobs(batch), "support_labels": blobs(batch, shots)}


def _random_backbone(network, side):
    image = jnp.zeros((1, side, side, 3), jnp.uint8)
    return jax.jit(network.backbone.init)(jax.random.key(0), image)["params"]


def _random_head(network, backbone, batch):
    query, support = jax.eval_shape(network.embed_episode, backbone, batch)

    @jax.jit
    def initialise(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (query, support))
        return network.head.init({"params": key}, *zeros, batch["support_labels"])["params"]

    return initialise(jax.random.key(0))


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "kernels": check_kernels,
    "kmeans": benchmark_kmeans,
    "branch": compare_branch,
    "training": whole_step,
    "evaluation": evaluation,
}


def run_section(name: str, small: bool) -> list[Row]:
    """Returns a section's rows; the last one says how long it took, or why it failed."""
    rows, start = [], time.perf_counter()
    last: Row = {"section": name}
    try:
        for row in SECTIONS[name](small):
            rows.append({"section": name} | row)
            print(json.dumps(rows[-1]), flush=True)
    except Exception as error:
        last["failed"] = f"{type(error).__name__}: {error}"[:500]
    last["section_seconds"] = time.perf_counter() - start
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        last["peak_bytes_so_far"] = stats["peak_bytes_in_use"]
    print(json.dumps(last), flush=True)
    return [*rows, last]


@main_guard
def main() -> int:
    """Runs the sections, writes what was asked for, and fails where something is wrong."""
    parser = Parser(
        prog="python experiments/speed/gpu_check.py",
        description="Correctness, speed and memory of this package on a device.",
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no section after (7)")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"--only={arguments.only}: expected some of {', '.join(SECTIONS)}")
    result = harness.environment() | {"rows": []}
    print(json.dumps(result), flush=True)
    start = time.perf_counter()
    for name in names:
        if time.perf_counter() - start > 60 * arguments.minutes:
            result["rows"].append({"section": name, "failed": "no time left"})
            continue
        result["rows"] += run_section(name, arguments.small)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    wrong = [r for r in result["rows"] if "failed" in r or r.get("right") is False]
    print(f"{len(wrong)} of {len(result['rows'])} rows are wrong or failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
