"""Checks a device in one command of some minutes: correctness, speed and memory.

    python experiments/speed/gpu_check.py [--json=FILE] [--small] [--only=NAME,…] [--minutes=7]

Sections: `kernels` (against NumPy in float64, and twice for the same bits), `kmeans` (the benchmark
of kmeans_benchmark.py, with the peers that are installed), `density` (that of
density_ratio_benchmark.py), `transformers` (that of vit_benchmark.py: DINOv2 S/14 and L/14 in both
types, images a second and the share of the device's peak), `branch` (a training step on kept
features with the class-agnostic branch and without), `training` (a whole step from images on),
`evaluation` (episodes a second), each with the peak of memory where the device reports it. Weights
are random. It needs jax, flax, optax, orbax-checkpoint and numpy, and takes PyTorch along where it
is installed; on a CPU take --small.

A section that fails is reported as failed and the next one goes on; none starts after --minutes.
"""

import hashlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
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

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.models.resnet import RESNET50, ResNet
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.compilation import is_deterministic, make_deterministic
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import Parser
from apanet_jax.training import train_step
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed import (
    density_ratio_benchmark,
    gpu_kernels,
    kmeans_benchmark,
    vit_benchmark,
)


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


def benchmark_kmeans(small: bool) -> Iterator[Row]:
    """The k-means benchmark, with the peers that are there."""
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    peers, missing = kmeans_benchmark.available(list(kmeans_benchmark.PEERS), device)
    for name, reason in missing.items():
        yield {"implementation": name, "missing": reason}
    groups = ["small"] if small else ["paper2048", "quickstart", "big"]
    shapes = [shape for name in groups for shape in kmeans_benchmark.SHAPES[name]]
    shapes = [s for s in shapes if s.positions != 3600 or s.clusters == 3]
    options = {"rounds": 10, "repetitions": 2 if small else 5, "patience": 2.0}
    rows, _ = kmeans_benchmark.benchmark(shapes, peers, **options)
    yield from rows
    if device == "gpu" and not small:
        for shape in kmeans_benchmark.SHAPES["bigger"]:
            yield from kmeans_benchmark.measure(shape, {OURS: peers[OURS]}, 3, 1, 60.0)


def benchmark_density_ratio(small: bool) -> Iterator[Row]:
    """The density ratio's benchmark, its answers against float64."""
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    groups = density_ratio_benchmark.SHAPES
    names = ["small"] if small else [name for name in groups if name != "small"]
    for shape in (shape for name in names for shape in groups[name]):
        for row in density_ratio_benchmark.measure(shape, device, 2 if small else 9):
            # PyTorch rounds unit vectors and cosines to bfloat16: its rows are not judged.
            judged = row["implementation"] == OURS
            yield row | ({"right": row["largest_error"] < 1e-4} if judged else {})


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
    times: dict[int, list[float]] = {clusters: [] for clusters in steps}
    for turn in range(repetitions):
        for clusters, step in harness.in_turn(steps, turn):
            times[clusters].append(step.seconds())
    plain, with_branch = (harness.spread(own)["seconds"] for own in times.values())
    for clusters, step in steps.items():
        row = {"features": name, "batch": size.batch, "clusters": clusters}
        row |= harness.spread(times[clusters]) | {"compile_seconds": step.compile_seconds}
        yield row | ({"share_of_branch": 1 - plain / with_branch} if clusters else {})


def whole_step(small: bool) -> Iterator[Row]:
    """A training step from images on, with a frozen ResNet-50, and larger DINOv2s."""
    cases = [("resnet50", 65, 2, 8)] if small else [("resnet50", 473, 4, 256)]
    if not small:
        cases += [("dinov2_vits14", 518, 4, 256), ("dinov2_vitl14", 518, 4, 256)]
    for name, side, batch, channels in cases:
        row = backbones.spec(name)
        for dtype in (jnp.float32,) if small else (jnp.float32, jnp.bfloat16):
            head = APANet(
                channels=channels, block4_channels=row.block4_channels, centred=row.centred
            )
            module = backbones.create(name, dtype=dtype)
            network = Network(module, head, masked_support=row.has_last_block)
            episodes = harness.noise_episodes(batch, 1, side)
            step = _Step(network, _random_backbone(network, side), episodes)
            times = [step.seconds() for _ in range(2 if small else 10)]
            yield {
                "backbone": name,
                "type": jnp.dtype(dtype).name,
                "batch": batch,
                "side": side,
                "compile_seconds": step.compile_seconds,
                "loss": step.loss,
                "right": bool(np.isfinite(step.loss)),
            } | harness.spread(times)


def repeated(small: bool) -> Iterator[Row]:
    """Trains twice, on kept features and from images on: are all bits the same?

    Sizes are quickstart's. The digest is of all that training leaves, momentum too; it is to be the
    same in another process.
    """
    size, steps = (SMALL, 3) if small else (LITE0, 300)
    heads = {"channels": size.channels, "priors": ("middle",), "cluster_features": "middle"}
    if small:
        from tests.small_backbone import CHANNELS, ThreeConvolutions

        module, block4 = ThreeConvolutions(), CHANNELS[1]
    else:
        module = backbones.create("efficientnet_lite0")
        block4 = backbones.spec("efficientnet_lite0").block4_channels
    whole = Network(module, APANet(block4_channels=block4, **heads), masked_support=False)
    images = harness.noise_episodes(size.batch, 1, size.label)
    cases = {
        "kept features": (Network(None, APANet(**heads)), {}, _kept_batch(size), 0.01),
        "images": (whole, _random_backbone(whole, size.label), images, _RATE),
    }
    for name, case in cases.items():
        found, seconds = [], []
        for _ in range(2):
            step = _Step(*case)
            before = _digest(step.state.parameters)
            seconds.append(sum(step.seconds() for _ in range(steps)))
            found.append(_digest(step.state))
        yield {
            "path": name,
            "steps": steps,
            "deterministic": is_deterministic(),
            "moved": before != _digest(step.state.parameters),
            "digest": found[0],
            "right": found[0] == found[1] and bool(np.isfinite(step.loss)),
        } | harness.spread(seconds)


def _digest(tree: Any) -> str:
    leaves = map(np.asarray, jax.tree.leaves(jax.device_get(tree)))
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()[:16]


def evaluation(small: bool) -> Iterator[Row]:
    """Episodes a second from images to masks, 1 and 5 supports each."""
    side, batch, channels = (65, 2, 8) if small else (473, 8, 256)
    network = Network(ResNet(RESNET50), APANet(channels=channels))
    backbone = _random_backbone(network, side)
    for shots in (1,) if small else (1, 5):
        episodes = jax.device_put(harness.noise_episodes(batch, shots, side))
        head = _random_head(network, backbone, episodes)
        run = jax.jit(lambda h, b, e: jnp.argmax(network(h, b, e).logits, -1))
        times = [harness.timed(run, head, backbone, episodes)[0] for _ in range(3 if small else 11)]
        # The first call compiles.
        row = harness.spread(times[1:])
        yield {
            "backbone": "resnet50",
            "shots": shots,
            "batch": batch,
            "side": side,
            "episodes_per_second": batch / row["seconds"],
        } | row


def both_evaluations(small: bool) -> Iterator[Row]:
    """Episodes a second from loaded images to counts, embedding every episode and each image once.

    The faster one on a device is what `evaluation.once_on_accelerators` should say.
    """
    if importlib.util.find_spec("grain") is None:
        yield {"missing": "grain"}
        return
    from experiments.speed import gpu_evaluation

    if small:
        from tests.small_backbone import CHANNELS, ThreeConvolutions

        head = APANet(channels=8, block4_channels=CHANNELS[1])
        side, batch, network = 65, 2, Network(ThreeConvolutions(), head)
    else:
        side, batch, network = 473, 8, Network(ResNet(RESNET50), APANet(channels=256))
    backbone = _random_backbone(network, side)
    head = _random_head(network, backbone, harness.noise_episodes(batch, 1, side))
    images, episodes = (24, 6) if small else (200, 1600)
    yield from gpu_evaluation.rows(
        network, head, backbone, images=images, side=side, episodes=episodes, batch=batch
    )


def many_clusters(small: bool) -> Iterator[Row]:
    """K-means at 1, 3, 5 and 256 clusters of the paper's features, with the peers that are there.

    With one cluster and with 256 no peer in PyTorch is to be faster.
    """
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    peers, missing = kmeans_benchmark.available(list(kmeans_benchmark.PEERS), device)
    for name, reason in missing.items():
        yield {"implementation": name, "missing": reason}
    counts = (1, 3) if small else (3, 1, 5, 256)
    positions, channels = (200, 32) if small else (3600, 2048)
    shapes = [kmeans_benchmark.Shape(4, positions, channels, count) for count in counts]
    rows, _ = kmeans_benchmark.benchmark(
        shapes, peers, rounds=10, repetitions=2 if small else 5, patience=2.0
    )
    for row in rows:
        if row["implementation"] != OURS and "failed" in row:
            # Some packages refuse one cluster, which says nothing of ours.
            row = {"missing" if name == "failed" else name: value for name, value in row.items()}
        yield row


class _Step:
    """A compiled training step that goes on from call to call."""

    def __init__(self, network, backbone, batch, rate=_RATE):
        transformation = train_step.optimizer(lambda count: rate)
        head = _random_head(network, backbone, batch)
        state = train_step.TrainState(jnp.zeros((), jnp.int32), head, transformation.init(head))
        mesh = data_mesh(1)
        whole = replicated(mesh)
        self.state, self._backbone = jax.device_put((state, backbone), whole)
        self._batch = jax.device_put(batch, batch_sharding(mesh))
        self._step = train_step.make_step(network, transformation, 0.4, mesh)
        start = time.perf_counter()
        self.seconds()
        self.compile_seconds = time.perf_counter() - start

    def seconds(self) -> float:
        start = time.perf_counter()
        self.state, losses = self._step(self.state, self._backbone, self._batch, jax.random.key(0))
        self.loss = float(losses.total)
        return time.perf_counter() - start


def _kept_batch(size: Kept) -> Row:
    rng = np.random.default_rng(0)
    batch = harness.noise_episodes(size.batch, 1, size.label)
    batch = {name: array for name, array in batch.items() if "label" in name}
    for level, channels in {"middle": size.middle, "high": size.high}.items():
        if channels is not None:
            for role, leading in (("query", ()), ("support", (1,))):
                shape = (size.batch, *leading, size.side, size.side, channels)
                batch[f"{role}_{level}"] = np.maximum(rng.standard_normal(shape, np.float32), 0)
    return batch


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
    "kernels": gpu_kernels.check_kernels,
    "kmeans": benchmark_kmeans,
    "density": benchmark_density_ratio,
    "transformers": vit_benchmark.device_rows,
    "branch": compare_branch,
    "training": whole_step,
    "evaluation": evaluation,
    "repeat": repeated,
    "both_evaluations": both_evaluations,
    "clusters": many_clusters,
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


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    only = harness.some_of(SECTIONS, all=list(SECTIONS))
    parser.add_argument("--only", type=only, default="all", help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--minutes", type=float, default=7.0, help="start no section after (7)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections, writes what was asked for, and returns 1 where something is wrong."""
    given = arguments().parse_args(argv)
    if "repeat" in given.only:
        # Before any device is asked for; the others are timed as XLA likes it best.
        make_deterministic()
    result = harness.environment() | {"rows": []}
    print(json.dumps(result), flush=True)
    start = time.perf_counter()
    for name in given.only:
        if time.perf_counter() - start > 60 * given.minutes:
            result["rows"].append({"section": name, "failed": "no time left"})
            continue
        result["rows"] += run_section(name, given.small)
        # After each section, so that nothing is lost where the machine is taken away.
        if given.json:
            write_json(given.json, result)
    wrong = [r for r in result["rows"] if "failed" in r or r.get("right") is False]
    print(f"{len(wrong)} of {len(result['rows'])} rows are wrong or failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
