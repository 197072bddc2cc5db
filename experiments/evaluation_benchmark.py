"""Evaluation that embeds once against the path that embeds every episode anew.

    python experiments/evaluation_benchmark.py [--repetitions=3] [--json=FILE]
        --config=configs/pascal.py:records=RECORDS,weights=random,episodes=1000

Both paths score the same episodes with the same untrained head, in turns, each repetition with
episodes of another seed; nothing of one repetition is kept for the next. Compiling comes first and
is not counted. A row also says how many pixels' counts the two paths give differently, of how many.
"""

import importlib.metadata
import itertools
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from apanet_jax.command_line import config_of, run_command
from apanet_jax.metrics import EpisodeCounts
from apanet_jax.reporting import write_json
from apanet_jax.run import Run, forget_test_features, make_run
from apanet_jax.train_step import create_state, optimizer

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings: data, backbone, episodes.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "How often each path runs.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")

PATHS = {"embeds once": True, "every episode": False}


def main() -> None:
    """Prints a row for each number of shots and path, and their ratio."""
    config, _ = config_of(_CONFIG)
    config.features.keep = False
    rows = []
    for shot in config.evaluation.shots:
        rows += measure(config, shot)
        once, anew = rows[-2:]
        ratio = anew["seconds"] / once["seconds"]
        print(f"{shot}-shot: embedding once is {ratio:.1f} times as fast", flush=True)
    result = {
        "device": f"{jax.devices()[0].device_kind} ({platform.machine()})",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")},
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if _JSON.value:
        write_json(Path(_JSON.value), result)


def measure(config, shot: int) -> list[dict]:
    """Returns the rows of both paths at one number of shots."""
    config = config.copy_and_resolve_references()
    config.evaluation.shots = (shot,)
    seconds = {path: [] for path in PATHS}
    differing = pixels = 0
    sums = {}
    for repetition in range(_REPETITIONS.value + 1):
        config.evaluation.seed = 321 + repetition
        run, parameters = _run_with_head(config)
        found = {}
        for path, embed_once in PATHS.items():
            run.config.evaluation.embed_once = embed_once
            # The first repetition compiles; a few episodes are enough for that.
            forget_test_features()
            episodes = config.evaluation.batch_size if not repetition else run.test_count
            started = time.perf_counter()
            counts, _ = run.count_episodes(parameters, shot, episodes)
            if repetition:
                seconds[path].append(time.perf_counter() - started)
            found[path] = counts
        if repetition:
            differing += _difference(*found.values())
            pixels += sum(int(counts.sum()) for counts in found["every episode"])
            sums = {path: [int(x[:, 1].sum()) for x in counts] for path, counts in found.items()}
    return [
        {
            "implementation": "apanet_jax",
            "path": path,
            "backbone": config.backbone.name,
            "comparison": config.model.comparison,
            "image_size": config.image_size,
            "shots": shot,
            "episodes": config.evaluation.episodes,
            "seconds": round(statistics.median(values), 2),
            "seconds_min": round(min(values), 2),
            "seconds_max": round(max(values), 2),
            "intersection": sums[path][0],
            "union": sums[path][1],
            "differing": differing,
            "compared": pixels,
        }
        for path, values in seconds.items()
    ]


def _run_with_head(config) -> tuple[Run, dict]:
    """Returns a run and an untrained head that finds about half of what it sees."""
    run = make_run(config.copy_and_resolve_references())
    state = create_state(
        run.network,
        run.backbone_parameters,
        config.image_size,
        optimizer(lambda count: 0.0),
        jax.random.key(0),
    )
    with run.evaluation_batches(run.test_shots[0], 1) as batches:
        batch = next(itertools.islice(batches, 1))
    logits = jax.jit(run.network)(state.parameters, run.backbone_parameters, batch).logits
    output = state.parameters["comparison"]["output"]
    output = output.get("output", output)
    output["bias"] += np.array([0, -np.median(logits[..., 1] - logits[..., 0])], np.float32)
    return run, state.parameters


def _difference(first: EpisodeCounts, second: EpisodeCounts) -> int:
    return sum(int(np.abs(a.astype(int) - b).sum()) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    run_command(main)
