"""Training several heads side by side in one program, against training them one after another.

    python experiments/speed/side_by_side_benchmark.py [--heads=4] [--steps=10] [--repetitions=3]
        [--loop] [--json=FILE] --config=configs/folder.py:records=RECORDS

The heads have the seeds 0, 1, 2, …, and episodes of their own. Both ways make the same steps from
the same states in turn; batches are loaded beforehand, others for every repetition; compilation
comes first and is not counted. The difference is the largest one between the losses of both ways.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runs.run import Run, make_run
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import Parser
from apanet_jax.training import train_step
from experiments import harness

ALONE, TOGETHER = "one after another", "side by side"


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data, backbone, head", json=True)
    parser.add_argument("--heads", type=harness.whole(2), default=4, help="how many (4)")
    parser.add_argument("--steps", type=harness.whole(1), default=10, help="of a repetition (10)")
    parser.add_argument("--repetitions", type=harness.whole(1), default=3, help="timed turns (3)")
    parser.add_argument(
        "--loop", action="store_true", help="side by side by a loop in the program, not by vmap"
    )
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints seconds for a step of all heads, both ways, and their ratio."""
    given = arguments().parse_args(argv)
    run = make_run(given.config)
    ways = {
        ALONE: alone(run, given.heads),
        TOGETHER: together(run, given.heads, at_once=not given.loop),
    }
    batches = [run.data.training_batches(1000 * seed) for seed in range(given.heads)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    difference = 0.0
    for turn in range(given.repetitions + 1):
        steps = given.steps if turn else 1
        loaded = [[next(own) for own in batches] for _ in range(steps)]
        losses = {}
        for name, way in harness.in_turn(ways, turn):
            took, losses[name] = harness.timed(
                lambda way=way, loaded=loaded: [way(batch) for batch in loaded]
            )
            if turn:
                seconds[name].append(took / steps)
        difference = max(difference, float(np.abs(np.subtract(*losses.values())).max()))
    for own in batches:
        own.close()
    rows = [{"implementation": name} | harness.spread(own) for name, own in seconds.items()]
    result = harness.environment() | {
        "heads": given.heads,
        "at_once": not given.loop,
        "num_clusters": given.config.model.num_clusters,
        "backbone": given.config.backbone.name,
        "image_size": given.config.image_size,
        "rows": rows,
        "ratio": rows[0]["seconds"] / rows[1]["seconds"],
        "largest_difference_of_losses": difference,
    }
    lines = [(row["implementation"], harness.milliseconds(row)) for row in rows]
    text = harness.table(("heads", "ms a step of all: median (min to max)"), lines)
    text += f"\nratio {result['ratio']:.2f}, losses differ by {difference:.1e} at most"
    harness.publish(result, text, given.json)


def alone(run: Run, heads: int) -> Callable:
    """Returns a step of all heads, one after another, that keeps their states."""
    model = run.settings.model
    step = train_step.make_step(
        run.network, run.task().transformation, model.agnostic_weight, run.mesh, model.level_weight
    )
    states, key = [_state(run, seed) for seed in range(heads)], run.task().key

    def all_heads(batches):
        losses = []
        for head, batch in enumerate(batches):
            states[head], loss = step(states[head], run.loaded.backbone_parameters, batch, key)
            losses.append(loss.total)
        return jnp.stack(losses)

    return all_heads


def together(run: Run, heads: int, *, at_once: bool) -> Callable:
    """Returns a step of all heads in one program that keeps their states."""
    model = run.settings.model
    step = train_step.make_side_by_side_step(
        run.network,
        run.task().transformation,
        run.mesh,
        model.level_weight,
        False,
        at_once,
    )
    states = jax.tree.map(lambda *x: jnp.stack(x), *(_state(run, seed) for seed in range(heads)))
    state = jax.device_put(states, replicated(run.mesh))
    keys = jnp.stack([run.task().key] * heads)
    weights = np.full(heads, model.agnostic_weight, np.float32)

    def all_heads(batches):
        nonlocal state
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        state, losses = step(state, run.loaded.backbone_parameters, stacked, keys, weights)
        return losses.total

    return all_heads


def _state(run: Run, seed: int) -> train_step.TrainState:
    state = train_step.create_state(
        run.network,
        run.loaded.backbone_parameters,
        run.settings.image_size,
        run.task().transformation,
        jax.random.key(seed),
        run.programs,
    )
    return jax.device_put(state, replicated(run.mesh))


if __name__ == "__main__":
    main()
