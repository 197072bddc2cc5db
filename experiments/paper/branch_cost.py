"""What the class-agnostic branch costs: parameters, inference and training, against the baseline.

    python experiments/paper/branch_cost.py --config=configs/pascal.py [--clusters=0,3,5]
        [--repetitions=5] [--shot=1] [--json=FILE]

The config says backbone, size, network, batches and whether steps begin at images or at kept
features (`features.keep`); weights and images are random, and no records are read:

    --config=configs/pascal.py:stem=deep,training.batch_size=1,evaluation.batch_size=1,image_size=257
    --config=configs/folder.py

Each number of clusters makes an inference program (an episode's inputs to its pixel counts) and a
training step. Both are compiled first, then run in turn, in an order that changes, each turn with
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.settings import check, typed
from apanet_jax.evaluation.protocol import score
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import Parser
from apanet_jax.runtime.programs import Programs
from apanet_jax.training import train_step
from apanet_jax.weights.load import load_backbone
from apanet_jax.weights.network import make_network
from experiments import harness
from experiments.harness import Row

INFERENCE, TRAINING = "inference", "training"
RATE = 0.0025


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


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="network, size, batches", json=True)
    parser.add_argument("--clusters", type=harness.numbers, default="0,3,5", help="0: no branch")
    repetitions = {"type": harness.whole(1), "default": 5}
    parser.add_argument("--repetitions", **repetitions, help="timed turns (5)")
    parser.add_argument("--shot", type=harness.whole(1), default=1, help="supports (1)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each number of clusters."""
    given = arguments().parse_args(argv)
    config = given.config
    check(config)
    load_before = os.getloadavg()[0]
    rows = measure(config, given.clusters, given.shot, given.repetitions)
    result = harness.environment() | {
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "backbone": config.backbone.name,
        "comparison": config.model.comparison,
        "channels": config.model.channels,
        "image_size": config.image_size,
        "kept_features": config.features.keep,
        "shot": given.shot,
        "batch": {phase: _batch_size(config, phase) for phase in (INFERENCE, TRAINING)},
        "rows": rows,
    }
    harness.publish(result, markdown(rows), given.json)


def measure(config: ConfigDict, clusters: list[int], shot: int, repetitions: int) -> list[Row]:
    """Compiles and times everything; returns a row for each number of clusters."""
    backbone = load_backbone(config.backbone.name, "random", stem=config.backbone.stem)
    backbone = jax.device_put(backbone, replicated(data_mesh(1)))
    settings = typed(config)
    network = make_network(settings.backbone, settings.model)
    draw = functools.partial(draw_batch, config, jax.jit(network.embed), backbone, shot)
    contestants = {number: _contestant(config, number, backbone, draw) for number in clusters}
    seconds: dict[tuple[str, int], list[float]] = {}
    # The first turn is not counted.
    for turn in range(repetitions + 1):
        for phase in (INFERENCE, TRAINING):
            batch = draw(phase, turn)
            for number, contestant in harness.in_turn(contestants, turn):
                took, _ = harness.timed(contestant.programs[phase].run, batch)
                print(f"{phase}, n = {number}: {took:.4f} s", file=sys.stderr)
                if turn:
                    seconds.setdefault((phase, number), []).append(took)
    first = contestants[clusters[0]]
    return [_row(config, contestant, first, seconds) for contestant in contestants.values()]


def _contestant(
    config: ConfigDict,
    clusters: int,
    backbone: Parameters,
    draw: Callable[[str, int], Batch],
) -> Contestant:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.num_clusters = clusters
    settings = typed(config)
    network = make_network(settings.backbone, settings.model)
    optimizer = train_step.optimizer(lambda count: RATE)
    size, key = config.image_size, jax.random.key(0)
    state = train_step.create_state(network, backbone, size, optimizer, key, Programs())
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
    config: ConfigDict,
    embed: Callable[..., NamedTuple],
    backbone: Parameters,
    shot: int,
    phase: str,
    number: int,
) -> Batch:
    """Returns a batch of noise on the device.

    Where the config keeps features, those of the noise replace the images, as float16.
    """
    size, batch_size = config.image_size, _batch_size(config, phase)
    batch = harness.noise_episodes(batch_size, shot, size, seed=(number, phase == TRAINING))
    if phase == INFERENCE:
        batch["original_label"] = batch.pop("query_label")
        batch["original_side"] = np.full(batch_size, size, np.int32)
    if config.features.keep:
        for role, name in (("query", "query_image"), ("support", "support_images")):
            batch |= _kept(embed, backbone, role, batch.pop(name))
    spread = batch_sharding(data_mesh(1))
    return jax.block_until_ready(jax.device_put(batch, spread))


def _kept(
    embed: Callable[..., NamedTuple], backbone: Parameters, role: str, images: np.ndarray
) -> Batch:
    features = embed(backbone, images.reshape(-1, *images.shape[-3:]))
    return {
        f"{role}_{name}": x.reshape(*images.shape[:-3], *x.shape[1:]).astype(jnp.float16)
        for name, x in features._asdict().items()
        if x is not None
    }


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
        # A step is a whole batch, inference is given for an episode.
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
    first = f"n = {rows[0]['against']}"
    lines = []
    for row in rows:
        same = "yes" if row["inference_program_is_the_same"] else "no"
        cells = [row["clusters"], row["head_parameters"], same]
        for phase in (INFERENCE, TRAINING):
            cells += [
                f"{1e3 * row[phase]['median']:.1f}",
                "{ratio:.3f} ({ratio_min:.3f} to {ratio_max:.3f})".format(**row[phase]),
                f"{row[phase]['temporary_bytes'] / 2**20:.1f}",
            ]
        compiling = (f"{row[phase]['compile_seconds']:.0f} s" for phase in (INFERENCE, TRAINING))
        lines.append([*cells, ", ".join(compiling)])
    heads = ["n", "head's parameters", f"same inference program as {first}"]
    for name in ("inference, ms an episode", "training, ms a step"):
        heads += [name, f"over {first}: median (min to max)", "its memory, MiB"]
    return harness.table([*heads, "compiling: inference, training"], lines)


if __name__ == "__main__":
    main()
