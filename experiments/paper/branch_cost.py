"""What the class-agnostic branch costs: parameters, inference and training, against the baseline.

    python experiments/paper/branch_cost.py --config=configs/pascal.py [--clusters=0,3,5]
        [--repetitions=5] [--json=FILE] [--markdown=FILE]

The config says backbone, size, network, batches and whether steps begin at pictures or at kept
features (`features.keep`); weights and pictures are random, and no records are read:

    --config=configs/pascal.py:training.batch_size=1,evaluation.batch_size=1,image_size=257
    --config=configs/folder.py

Each number of clusters makes an inference program (an episode's inputs to its pixel counts) and a
training step. Both are compiled apart, then run in turns, in an order that changes, each turn with
other inputs; inputs are on the device before, results are waited for. Ratios are medians over the
turns of the time over that of the first number of clusters in the same turn. Memory is what the
compiler says the program takes beside its arguments. "Same program" compares the inference
program's text, as it is given to the compiler, with that of the first number of clusters.
"""

import functools
import hashlib
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
from absl import flags
from ml_collections import ConfigDict

from apanet_jax.config import settings
from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.evaluation.protocol import score
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.training import train_step
from apanet_jax.weights.load import load_backbone
from apanet_jax.weights.network import make_network
from experiments.harness import environment

_CONFIG = config_flag("Settings: network, size, batches.")
_CLUSTERS = flags.DEFINE_list("clusters", ["0", "3", "5"], "Numbers of clusters, 0: no branch.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Timed turns.", lower_bound=1)
_SHOT = flags.DEFINE_integer("shot", 1, "Supports an episode.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table there, too.")

INFERENCE, TRAINING = "inference", "training"
RATE = 0.0025

Row = dict[str, Any]


class Program(NamedTuple):
    """A compiled program.

    Attributes:
      run: runs it on a batch and waits for the result.
      text: what was given to the compiler.
      temporary_bytes: what it takes beside arguments and results.
      compile_seconds: tracing, lowering and compiling.
    """

    run: Callable[[Batch], None]
    text: str
    temporary_bytes: int
    compile_seconds: float


class Contestant(NamedTuple):
    """A number of clusters, with the head's parameters that it has, and its programs by phase."""

    clusters: int
    parameters: int
    programs: dict[str, Program]


def main() -> None:
    """Prints a line for each number of clusters."""
    config, _ = config_of(_CONFIG)
    settings.check(config)
    if not all(text.isdigit() for text in _CLUSTERS.value) or not _CLUSTERS.value:
        raise UserError(f"--clusters={','.join(_CLUSTERS.value)}: expected whole numbers")
    load_before = os.getloadavg()[0]
    rows = measure(config, list(dict.fromkeys(map(int, _CLUSTERS.value))))
    table = markdown(rows)
    print(table)
    result = environment() | {
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "backbone": config.backbone.name,
        "comparison": config.model.comparison,
        "channels": config.model.channels,
        "image_size": config.image_size,
        "kept_features": config.features.keep,
        "shot": _SHOT.value,
        "batch": {phase: _batch_size(config, phase) for phase in (INFERENCE, TRAINING)},
        "rows": rows,
    }
    if _JSON.value:
        write_json(Path(_JSON.value), result)
    if _MARKDOWN.value:
        write_bytes(Path(_MARKDOWN.value), table.encode())


def measure(config: ConfigDict, clusters: list[int]) -> list[Row]:
    """Compiles and times everything; returns a row for each number of clusters."""
    backbone = load_backbone(config.backbone.name, "random", stem=config.backbone.stem)
    backbone = jax.device_put(backbone, replicated(data_mesh(1)))
    draw = functools.partial(draw_batch, config, make_network(config), backbone)
    everybody = [_contestant(config, number, backbone, draw) for number in clusters]
    seconds: dict[tuple[str, int], list[float]] = {}
    # The first turn is not counted.
    for turn in range(_REPETITIONS.value + 1):
        for phase in (INFERENCE, TRAINING):
            batch = draw(phase, turn)
            shift = turn % len(everybody)
            for contestant in everybody[shift:] + everybody[:shift]:
                start = time.perf_counter()
                contestant.programs[phase].run(batch)
                took = time.perf_counter() - start
                print(f"{phase}, n = {contestant.clusters}: {took:.4f} s", file=sys.stderr)
                if turn:
                    seconds.setdefault((phase, contestant.clusters), []).append(took)
    return [_row(config, contestant, everybody[0], seconds) for contestant in everybody]


def _contestant(
    config: ConfigDict,
    clusters: int,
    backbone: Parameters,
    draw: Callable[[str, int], Batch],
) -> Contestant:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.num_clusters = clusters
    network = make_network(config)
    optimizer = train_step.optimizer(lambda count: RATE)
    size, key = config.image_size, jax.random.key(0)
    state = train_step.create_state(network, backbone, size, optimizer, key)
    programs = {
        INFERENCE: _inference(network, state.parameters, backbone, draw(INFERENCE, 0)),
        TRAINING: _training(config, network, optimizer, state, backbone, draw(TRAINING, 0)),
    }
    count = sum(x.size for x in jax.tree.leaves(state.parameters))
    return Contestant(clusters, count, programs)


def _inference(
    network: Network, parameters: Parameters, backbone: Parameters, batch: Batch
) -> Program:
    """Compiles what evaluation does with a batch of episodes: from its inputs to pixel counts."""

    def count(parameters, backbone, batch):
        logits = network(parameters, backbone, batch).logits
        difference = logits[..., 1] - logits[..., 0]
        return score(difference, batch["original_label"], batch["original_side"])

    # A copy: the training step donates its own.
    arguments = jax.tree.map(jnp.array, parameters), backbone
    compiled, text, took = _compiled(jax.jit(count), *arguments, batch)
    memory = compiled.memory_analysis().temp_size_in_bytes
    return Program(lambda x: jax.block_until_ready(compiled(*arguments, x)), text, memory, took)


def _training(config, network, optimizer, state, backbone, batch) -> Program:
    """Compiles the training step: forward, loss (Eq. 9), gradients of the head, SGD."""
    mesh, model = data_mesh(1), config.model
    make = train_step.make_step(network, optimizer, model.agnostic_weight, mesh, model.level_weight)
    state, key = jax.device_put((state, jax.random.key(1)), replicated(mesh))
    compiled, text, took = _compiled(make, state, backbone, batch, key)

    def run(batch):
        nonlocal state
        state, losses = compiled(state, backbone, batch, key)
        jax.block_until_ready((state, losses))

    return Program(run, text, compiled.memory_analysis().temp_size_in_bytes, took)


def _compiled(function, *arguments):
    """Returns the compiled program, its text before, and how long that took."""
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    compiled = lowered.compile()
    return compiled, lowered.as_text(), time.perf_counter() - start


def draw_batch(
    config: ConfigDict, network: Network, backbone: Parameters, phase: str, number: int
) -> Batch:
    """Returns a batch on the device: noise, labels of blocks of foreground, background and 255.

    Where the config keeps features, those of the noise stand in the pictures' place, as float16.
    """
    rng = np.random.default_rng([number, phase == TRAINING])
    size, batch, shot = config.image_size, _batch_size(config, phase), _SHOT.value

    def pictures(*leading):
        return rng.integers(0, 256, (*leading, size, size, 3), np.uint8)

    def labels(*leading):
        blocks = rng.choice(np.array([0, 1, 255], np.uint8), (*leading, 8, 8), p=[0.6, 0.35, 0.05])
        side = -(-size // 8)
        return blocks.repeat(side, -2).repeat(side, -1)[..., :size, :size].copy()

    result = {"support_labels": labels(batch, shot)}
    if phase == TRAINING:
        result["query_label"] = labels(batch)
    else:
        sides = np.full(batch, size, np.int32)
        result |= {"original_label": labels(batch), "original_side": sides}
    shown = {"query": pictures(batch), "support": pictures(batch, shot)}
    if config.features.keep:
        for role, images in shown.items():
            result |= _kept(network, backbone, role, images)
    else:
        result |= {"query_image": shown["query"], "support_images": shown["support"]}
    spread = batch_sharding(data_mesh(1))
    return jax.block_until_ready(jax.device_put(result, spread))


def _kept(network: Network, backbone: Parameters, role: str, images: np.ndarray) -> Batch:
    features = _embedding(network)(backbone, images.reshape(-1, *images.shape[-3:]))
    return {
        f"{role}_{name}": x.reshape(*images.shape[:-3], *x.shape[1:]).astype(jnp.float16)
        for name, x in features._asdict().items()
        if x is not None
    }


@functools.lru_cache(maxsize=1)
def _embedding(network: Network):
    return jax.jit(network.embed)


def _batch_size(config: ConfigDict, phase: str) -> int:
    return config.evaluation.batch_size if phase == INFERENCE else config.training.batch_size


def _row(config, contestant: Contestant, first: Contestant, seconds) -> Row:
    text, of_first = (c.programs[INFERENCE].text for c in (contestant, first))
    row = {
        "clusters": contestant.clusters,
        "head_parameters": contestant.parameters,
        "against": first.clusters,
        "inference_program_is_the_same": text == of_first,
        "inference_program_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    for phase, program in contestant.programs.items():
        # A step is a whole batch, inference is told for an episode.
        each = 1 if phase == TRAINING else _batch_size(config, phase)
        times = seconds[phase, contestant.clusters]
        base = seconds[phase, first.clusters]
        ratios = [a / b for a, b in zip(times, base, strict=True)]
        row[phase] = {
            "seconds": [t / each for t in times],
            "median": statistics.median(times) / each,
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "temporary_bytes": program.temporary_bytes,
            "compile_seconds": program.compile_seconds,
        }
    return row


def markdown(rows: list[Row]) -> str:
    """Returns a line a row."""
    against = f"over n = {rows[0]['against']}: median (min to max)"
    lines = [
        f"| n | head's parameters | same inference program as n = {rows[0]['against']} "
        f"| inference, ms an episode | {against} | its memory, MiB "
        f"| training, ms a step | {against} | its memory, MiB | compiling: inference, training |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        cells = [
            row["clusters"],
            row["head_parameters"],
            "yes" if row["inference_program_is_the_same"] else "no",
        ]
        for phase in (INFERENCE, TRAINING):
            told = row[phase]
            cells += [
                f"{1e3 * told['median']:.1f}",
                "{ratio:.3f} ({ratio_min:.3f} to {ratio_max:.3f})".format(**told),
                f"{told['temporary_bytes'] / 2**20:.1f}",
            ]
        compiling = (f"{row[phase]['compile_seconds']:.0f} s" for phase in (INFERENCE, TRAINING))
        lines.append("| " + " | ".join(map(str, [*cells, ", ".join(compiling)])) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
