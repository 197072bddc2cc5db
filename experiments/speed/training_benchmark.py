"""A training step from pictures on: this package against the same network in PyTorch.

    python experiments/speed/training_benchmark.py [--backbones=resnet50,…] [--size=473] [--batch=4]
        [--shot=1] [--clusters=0,3] [--steps=3] [--only=NAME,…] [--json=FILE] [--markdown=FILE]

Everybody makes the same steps in turn: forward with a frozen random backbone, loss, backward, SGD.
Each step has other random pictures; each result is waited for. The first call, which compiles, is
timed apart. Both have the same parameters at the start (see torch_peer.py).

`share` is what the class-agnostic branch takes of a step: 1 - (without clusters / with them), the
median over the steps. `memory_bytes` is the process's peak during a step beyond what it held
before: features, activations and gradients, not parameters; on a CPU only (branch_cost.py tells a
GPU's). PyTorch runs on the kind of device that jax runs on; "autocast" has it make all it can in
bfloat16, where ours has the frozen backbone alone in it.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags

from apanet_jax.config.flags import run_command
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Batch, Network
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.training import train_step
from apanet_jax.weights.load import load_backbone
from experiments.harness import Memory, environment, settle
from experiments.speed.torch_peer import STEM, TorchPeer, fastest_here

OURS, OURS_HALF = "apanet_jax", "apanet_jax bfloat16 backbone"
PEER, PEER_LAST = "pytorch", "pytorch channels last"
PEER_HALF = "pytorch channels last autocast"
NAMES = (OURS, OURS_HALF, PEER, PEER_LAST, PEER_HALF)
RATE = 0.0025

_BACKBONES = flags.DEFINE_list("backbones", ["resnet50"], "ResNets or VGGs.")
_SIZE = flags.DEFINE_integer("size", 473, "Side of the pictures.", lower_bound=33)
_BATCH = flags.DEFINE_integer("batch", 4, "Episodes a step.", lower_bound=1)
_SHOT = flags.DEFINE_integer("shot", 1, "Supports an episode.", lower_bound=1)
_CLUSTERS = flags.DEFINE_list("clusters", ["0", "3"], "Numbers of clusters, 0: no branch.")
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps of everybody.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [OURS, PEER, PEER_LAST], f"Of {'; '.join(NAMES)}.")
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table there, too.")

Step = Callable[[Batch], float]
Row = dict[str, Any]


class Contestant(NamedTuple):
    """Who makes steps: a name of `NAMES`, with so many clusters; `step` returns the loss."""

    implementation: str
    num_clusters: int
    step: Step


def main() -> None:
    """Prints a table for each backbone."""
    unknown = [name for name in _ONLY.value if name not in NAMES]
    if unknown:
        raise UserError(f"--only={unknown[0]} is unknown: expected some of {'; '.join(NAMES)}")
    if not all(text.isdigit() for text in _CLUSTERS.value):
        raise UserError(f"--clusters={','.join(_CLUSTERS.value)}: expected whole numbers")
    result = environment() | {
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "rows": [],
    }
    for name in _BACKBONES.value:
        result["rows"] += measure(name, contestants(name))
    table = markdown(result["rows"])
    print(table)
    if _JSON.value:
        write_json(Path(_JSON.value), result)
    if _MARKDOWN.value:
        write_bytes(Path(_MARKDOWN.value), table.encode())


def contestants(backbone_name: str) -> list[Contestant]:
    """Returns everybody who was asked for, with the same parameters."""
    transformation = train_step.optimizer(lambda count: RATE)
    found = []
    for num_clusters in map(int, _CLUSTERS.value):
        network = Network(
            backbones.create(backbone_name, stem=STEM), APANet(num_clusters=num_clusters)
        )
        shaping = load_backbone(backbone_name, "random", stem=STEM)
        state = train_step.create_state(
            network, shaping, _SIZE.value, transformation, jax.random.key(0)
        )
        head = jax.device_get(state.parameters)
        for name in _ONLY.value:
            peer, backbone = TorchPeer.like(network, head, backbone_name=backbone_name, seed=0)
            if name in (PEER, PEER_LAST, PEER_HALF):
                step = peer_step(peer, channels_last=name != PEER, half=name == PEER_HALF)
            else:
                if name == OURS_HALF:
                    module = backbones.create(backbone_name, stem=STEM, dtype=jnp.bfloat16)
                    network = dataclasses.replace(network, backbone=module)
                step = our_step(network, jax.tree.map(jnp.array, state), backbone, transformation)
            found.append(Contestant(name, num_clusters, step))
    return found


def our_step(network: Network, state, backbone, transformation) -> Step:
    """Returns the jitted step, its state donated, as training makes it."""
    mesh = data_mesh(1)
    make = train_step.make_step(network, transformation, 0.5, mesh)
    state, backbone, key = jax.device_put((state, backbone, jax.random.key(1)), replicated(mesh))

    def step(batch):
        nonlocal state
        on_device = jax.device_put(batch, batch_sharding(mesh))
        state, losses = make(state, backbone, on_device, key)
        jax.block_until_ready(state)
        return float(losses.total)

    return step


def peer_step(peer: TorchPeer, channels_last: bool, half: bool) -> Step:
    """Returns the step in PyTorch's own layout, or with channels last."""
    device = fastest_here(peer)
    if channels_last:
        peer.memory_format = torch.channels_last
        peer.to(memory_format=torch.channels_last)
    sgd = peer.sgd(RATE)

    def step(batch):
        sgd.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = peer.loss(batch)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


def draw(number: int) -> Batch:
    """Returns a batch of noise whose labels are blocks of foreground, background and 255."""
    rng = np.random.default_rng(number)
    batch, shot, size = _BATCH.value, _SHOT.value, _SIZE.value

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


def measure(backbone_name: str, everybody: list[Contestant]) -> list[Row]:
    """Times everybody in turn, and returns a row for each."""
    seconds: list[list[float]] = [[] for _ in everybody]
    memory, losses = [0] * len(everybody), [0.0] * len(everybody)
    on_cpu = jax.default_backend() == "cpu"
    for number in range(_STEPS.value + 1):
        batch = draw(number)
        for place, contestant in enumerate(everybody):
            settle(0.1)
            with Memory() if on_cpu else contextlib.nullcontext() as used:
                start = time.perf_counter()
                losses[place] = contestant.step(batch)
                seconds[place].append(time.perf_counter() - start)
            if number and used is not None:
                memory[place] = max(memory[place], used.bytes)
            print(f"{contestant[:2]} step {number}: {seconds[place][-1]:.2f} s", file=sys.stderr)
    settings = {
        "backbone": backbone_name,
        "size": _SIZE.value,
        "batch": _BATCH.value,
        "shot": _SHOT.value,
    }
    return [
        {"implementation": contestant.implementation}
        | settings
        | {
            "num_clusters": contestant.num_clusters,
            "first_call_seconds": first,
            "step_seconds": steps,
            "seconds": statistics.median(steps),
            "seconds_min": min(steps),
            "seconds_max": max(steps),
            "memory_bytes": used,
            "last_loss": loss,
        }
        for contestant, (first, *steps), used, loss in zip(
            everybody, seconds, memory, losses, strict=True
        )
    ]


def markdown(rows: list[Row]) -> str:
    """Returns a line a row, and the share of the class-agnostic branch."""
    lines = [
        "| backbone, pictures | clusters | | ms a step: median (min to max) | over ours "
        "| branch's share | peak memory | first call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = _same(rows, row, implementation=OURS)
        plain = _same(rows, row, num_clusters=0)
        ratio = median_ratio(row, ours) if ours else None
        share = 1 - median_ratio(plain, row) if plain and row["num_clusters"] else None
        digits = 0 if row["seconds"] > 1 else 1
        keys = ("seconds", "seconds_min", "seconds_max")
        times = [f"{1e3 * row[key]:.{digits}f}" for key in keys]
        cells = (
            f"{row['backbone']}, {row['batch']} x {row['size']}x{row['size']}, {row['shot']} shot",
            row["num_clusters"],
            row["implementation"],
            "{} ({} to {})".format(*times),
            "" if ratio is None else f"{ratio:.2f}",
            "" if share is None else f"{100 * share:.1f} %",
            f"{row['memory_bytes'] / 2**30:.2f} GiB" if row["memory_bytes"] else "",
            f"{row['first_call_seconds']:.0f} s",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def median_ratio(row: Row, other: Row) -> float:
    """Returns the median over the steps of one's time over the other's in the same turn."""
    pairs = zip(row["step_seconds"], other["step_seconds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def _same(rows: list[Row], row: Row, **changed) -> Row | None:
    wanted = {k: row[k] for k in ("implementation", "backbone", "num_clusters")} | changed
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


if __name__ == "__main__":
    run_command(main)
