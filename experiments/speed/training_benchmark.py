"""A training step from images to the updated head: this package against PyTorch's same network.

    python experiments/speed/training_benchmark.py [--backbones=resnet50,…] [--size=473] [--batch=4]
        [--shot=1] [--clusters=0,3] [--steps=3] [--only=NAME,…] [--json=FILE]

All implementations make the same steps in turn: forward with a frozen random backbone, loss,
backward, SGD. Each step has other random images, and each result is waited for. The first call,
which compiles, is timed separately. The parameters are the same at the start (`torch_peer.py`).

The branch's share of a step is 1 - (time without clusters / time with them), the median over the
steps. `memory_bytes` is the peak of the process during a step beyond what it held before: features,
activations and gradients, not parameters; on a CPU only (`branch_cost.py` has a GPU's). PyTorch
runs on the kind of device that JAX runs on. With "autocast" it computes all that it can in
bfloat16; "bfloat16 backbone" has only the frozen backbone in it. "compiled" is the autocast one,
its loss by `torch.compile`.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Batch, Network
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import Parser
from apanet_jax.runtime.programs import Programs
from apanet_jax.training import train_step
from apanet_jax.weights.load import load_backbone
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed.torch_peer import STEM, TorchPeer, fastest_here

OURS_HALF = "apanet_jax bfloat16 backbone"
PEER, PEER_LAST = "pytorch", "pytorch channels last"
PEER_HALF = "pytorch channels last autocast"
PEER_COMPILED = "pytorch compiled"
NAMES = (OURS, OURS_HALF, PEER, PEER_LAST, PEER_HALF, PEER_COMPILED)
RATE, AGNOSTIC_WEIGHT = 0.0025, 0.5

Step = Callable[[Batch], float]


class Contestant(NamedTuple):
    """An implementation of `NAMES` with a number of clusters; `step` returns the loss."""

    implementation: str
    num_clusters: int
    step: Step


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    names = harness.some_of(("resnet50", "resnet101", "vgg16", "vgg16_bn"))
    parser.add_argument("--backbones", type=names, default="resnet50", help="ResNets or VGGs")
    parser.add_argument("--size", type=harness.whole(33), default=473, help="of an image (473)")
    parser.add_argument("--batch", type=harness.whole(1), default=4, help="episodes a step (4)")
    parser.add_argument("--shot", type=harness.whole(1), default=1, help="supports (1)")
    parser.add_argument("--clusters", type=harness.numbers, default="0,3", help="0: no branch")
    parser.add_argument("--steps", type=harness.whole(1), default=3, help="timed steps (3)")
    only = harness.some_of(NAMES)
    default = ",".join((OURS, PEER, PEER_LAST))
    parser.add_argument("--only", type=only, default=default, help=f"of {'; '.join(NAMES)}")
    return parser


@harness.command
def main(argv: list[str] | None = None) -> None:
    """Prints a table for each backbone."""
    given = arguments().parse_args(argv)
    result = harness.environment() | {
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "rows": [],
    }
    for backbone in given.backbones:
        contestants = [
            contestant(backbone, name, clusters, given.size)
            for clusters in given.clusters
            for name in given.only
        ]
        settings = {"backbone": backbone} | {
            k: getattr(given, k) for k in ("size", "batch", "shot")
        }
        result["rows"] += [settings | row for row in measure(settings, contestants, given.steps)]
    harness.publish(result, markdown(result["rows"]), given.json)


def contestant(backbone_name: str, name: str, num_clusters: int, size: int) -> Contestant:
    """Returns an implementation; those with the same clusters have the same parameters."""
    sgd = train_step.optimizer(lambda count: RATE)
    network = Network(backbones.create(backbone_name, stem=STEM), APANet(num_clusters=num_clusters))
    shaping = load_backbone(backbone_name, "random", stem=STEM)
    state = train_step.create_state(network, shaping, size, sgd, jax.random.key(0), Programs())
    head = jax.device_get(state.parameters)
    peer, backbone = TorchPeer.like(network, head, backbone_name=backbone_name, seed=0)
    if name in (PEER, PEER_LAST, PEER_HALF, PEER_COMPILED):
        half = name in (PEER_HALF, PEER_COMPILED)
        step = peer_step(
            peer, channels_last=name != PEER, half=half, compiled=name == PEER_COMPILED
        )
        return Contestant(name, num_clusters, step)
    if name == OURS_HALF:
        module = backbones.create(backbone_name, stem=STEM, dtype=jnp.bfloat16)
        network = dataclasses.replace(network, backbone=module)
    return Contestant(name, num_clusters, our_step(network, state, backbone, sgd))


def our_step(network: Network, state: Any, backbone: Any, optimizer: Any) -> Step:
    """Returns the jitted step, its state donated, as training makes it."""
    mesh = data_mesh(1)
    make = train_step.make_step(network, optimizer, AGNOSTIC_WEIGHT, mesh)
    state, backbone, key = jax.device_put((state, backbone, jax.random.key(1)), replicated(mesh))

    def step(batch):
        nonlocal state
        on_device = jax.device_put(batch, batch_sharding(mesh))
        state, losses = make(state, backbone, on_device, key)
        jax.block_until_ready(state)
        return float(losses.total)

    return step


def peer_step(peer: TorchPeer, channels_last: bool, half: bool, compiled: bool = False) -> Step:
    """Returns the step in PyTorch's own layout, or with channels last."""
    device = fastest_here(peer)
    if channels_last:
        peer.memory_format = torch.channels_last
        peer.to(memory_format=torch.channels_last)
    sgd = peer.sgd(RATE)
    of_batch = torch.compile(peer.loss) if compiled else peer.loss

    def step(batch):
        sgd.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = of_batch(batch, AGNOSTIC_WEIGHT)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


def measure(settings: Row, contestants: list[Contestant], steps: int) -> list[Row]:
    """Times all contestants in turn, and returns a row for each."""
    rows = [
        {
            "implementation": contestant.implementation,
            "num_clusters": contestant.num_clusters,
            "step_seconds": [],
            "processor_seconds": [],
            "memory_bytes": 0,
        }
        for contestant in contestants
    ]
    on_cpu = jax.default_backend() == "cpu"
    for number in range(steps + 1):
        batch = harness.noise_episodes(
            settings["batch"], settings["shot"], settings["size"], seed=number
        )
        for row, contestant in zip(rows, contestants, strict=True):
            harness.settle(0.1)
            with harness.Memory() if on_cpu else contextlib.nullcontext() as used:
                clock = harness.Clock()
                row["last_loss"] = contestant.step(batch)
                seconds, processor = clock.seconds, clock.processor
            print(f"{contestant[:2]} step {number}: {seconds:.2f} s", file=sys.stderr)
            if not number:
                row["first_call_seconds"] = seconds
                continue
            row["step_seconds"].append(seconds)
            row["processor_seconds"].append(processor)
            if used is not None:
                row["memory_bytes"] = max(row["memory_bytes"], used.bytes)
    return [row | harness.spread(row["step_seconds"]) for row in rows]


def markdown(rows: list[Row]) -> str:
    """Returns a line a row, with the share of the class-agnostic branch."""
    lines = []
    for row in rows:
        ours = _same(rows, row, implementation=OURS)
        plain = _same(rows, row, num_clusters=0)
        share = 1 - median_ratio(plain, row) if plain and row["num_clusters"] else None
        lines.append(
            (
                f"{row['backbone']}, {row['batch']} x {row['size']}x{row['size']}, "
                f"{row['shot']} shot",
                row["num_clusters"],
                row["implementation"],
                harness.milliseconds(row, ".0f" if row["seconds"] > 1 else ".1f"),
                f"{1e3 * statistics.median(row['processor_seconds']):.0f}",
                "" if ours is None else f"{median_ratio(row, ours):.2f}",
                "" if share is None else f"{100 * share:.1f} %",
                f"{row['memory_bytes'] / 2**30:.2f} GiB" if row["memory_bytes"] else "",
                f"{row['first_call_seconds']:.0f} s",
            )
        )
    heads = ("backbone, images", "clusters", "", "ms a step: median (min to max)", "processor's")
    return harness.table(
        (*heads, "over ours", "branch's share", "peak memory", "first call"), lines
    )


def median_ratio(row: Row, other: Row) -> float:
    """Returns the median over the steps of one's time over the other's in the same turn."""
    pairs = zip(row["step_seconds"], other["step_seconds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def _same(rows: list[Row], row: Row, **changed) -> Row | None:
    wanted = {k: row[k] for k in ("implementation", "backbone", "num_clusters")} | changed
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


if __name__ == "__main__":
    main()
