"""Training several heads side by side in one program against one after another.

    python experiments/speed/side_by_side_benchmark.py --config=configs/folder.py:records=RECORDS \\
        [--heads=4] [--steps=10] [--repetitions=3] [--noat_once] [--json=FILE]

Heads of seeds 0, 1, 2, …, each on its own episodes. Both ways make the same steps from the same
states in turns; batches are loaded beforehand, others for every repetition; compiling comes first
and is not counted. The difference is the largest one between the two ways' losses.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.runs.run import Run, make_run
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.devices import replicated
from apanet_jax.training import train_step
from apanet_jax.training.loop import training_key, transformation
from experiments.harness import environment

_CONFIG = config_flag("Settings: data, backbone, head.")
_HEADS = flags.DEFINE_integer("heads", 4, "How many.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 10, "Of a repetition.", lower_bound=1)
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "How often.", lower_bound=1)
_AT_ONCE = flags.DEFINE_boolean("at_once", True, "By vmap; otherwise a loop within the program.")
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")


def main() -> None:
    """Prints seconds for a step of all heads, both ways, and their ratio."""
    config, _ = config_of(_CONFIG)
    runs = []
    for seed in range(_HEADS.value):
        own = config.copy_and_resolve_references()
        # What is kept depends on the seed; the heads shall look at the same.
        own.seed = config.seed
        runs.append((make_run(own), seed))
    ways = {"one after another": alone(runs), "side by side": together(runs)}
    batches = [run.training_batches(1000 * seed) for run, seed in runs]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    difference = 0.0
    for repetition in range(_REPETITIONS.value + 1):
        steps = _STEPS.value if repetition else 1
        loaded = [[next(own) for own in batches] for _ in range(steps)]
        losses = {}
        for name in reversed(ways) if repetition % 2 else ways:
            started = time.perf_counter()
            losses[name] = jax.block_until_ready([ways[name](batch) for batch in loaded])
            if repetition:
                seconds[name].append((time.perf_counter() - started) / steps)
        first, second = (np.array(x) for x in losses.values())
        difference = max(difference, float(np.abs(first - second).max()))
    for own in batches:
        own.close()
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    result = environment() | {
        "heads": _HEADS.value,
        "at_once": _AT_ONCE.value,
        "num_clusters": config.model.num_clusters,
        "backbone": config.backbone.name,
        "image_size": config.image_size,
        "seconds": medians,
        "all_seconds": seconds,
        "ratio": medians["one after another"] / medians["side by side"],
        "largest_difference_of_losses": difference,
    }
    print(json.dumps(result, indent=2))
    if _JSON.value:
        write_json(Path(_JSON.value), result)


def alone(runs: list[tuple[Run, int]]) -> Callable:
    """Returns a step of all heads, one after another, that keeps their states."""
    run = runs[0][0]
    step = train_step.make_step(
        run.network,
        transformation(run),
        run.config.model.agnostic_weight,
        run.mesh,
        run.config.model.level_weight,
    )
    states, key = [_state(own, seed) for own, seed in runs], training_key(run)

    def all_heads(batches):
        losses = []
        for head, batch in enumerate(batches):
            states[head], loss = step(states[head], run.backbone_parameters, batch, key)
            losses.append(loss.total)
        return jnp.stack(losses)

    return all_heads


def together(runs: list[tuple[Run, int]]) -> Callable:
    """Returns a step of all heads in one program that keeps their states."""
    run = runs[0][0]
    step = train_step.make_side_by_side_step(
        run.network,
        transformation(run),
        run.mesh,
        run.config.model.level_weight,
        same_batch=False,
        at_once=_AT_ONCE.value,
    )
    states = jax.tree.map(lambda *x: jnp.stack(x), *(_state(own, seed) for own, seed in runs))
    held = [jax.device_put(states, replicated(run.mesh))]
    keys = jnp.stack([training_key(run)] * len(runs))
    weights = np.full(len(runs), run.config.model.agnostic_weight, np.float32)

    def all_heads(batches):
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        held[0], losses = step(held[0], run.backbone_parameters, stacked, keys, weights)
        return losses.total

    return all_heads


def _state(run: Run, seed: int) -> train_step.TrainState:
    state = train_step.create_state(
        run.network,
        run.backbone_parameters,
        run.config.image_size,
        transformation(run),
        jax.random.key(seed),
    )
    return jax.device_put(state, replicated(run.mesh))


if __name__ == "__main__":
    run_command(main)
