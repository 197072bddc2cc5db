"""Several heads trained side by side in one program: seeds, folds and lambdas of one network.

A head is small beside the features it learns from, so one of them leaves an accelerator idle. Each
run keeps its own episodes, keys, journal and checkpoints, and ends as if it had been trained alone,
up to rounding: a workdir does not tell which way it came about.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.data.loader import EpisodeIterator
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import batch_sharding, replicated
from apanet_jax.runtime.errors import StopSignals
from apanet_jax.training.journal import Journal
from apanet_jax.training.loop import Pace, progress_bar, signals_asked
from apanet_jax.training.task import Progress, TrainingTask
from apanet_jax.training.train_step import make_side_by_side_step

_EACH_ITS_OWN = ("seed", "fold", "agnostic_weight")


def train_side_by_side(tasks: Sequence[tuple[TrainingTask, Path, Progress | None]]) -> None:
    """Trains heads to their last steps, those that can be in one program together.

    Together are trainings whose settings differ in seed, fold and lambda alone, and that stand at
    the same step; the others come after one another. See `loop.train` for what each leaves.

    Args:
      tasks: each with its workdir, and what shows how far it has come.

    Raises:
      UserError: a workdir holds a run of other settings, or a loss is no longer a number.
    """
    with contextlib.ExitStack() as stack:
        groups = defaultdict(list)
        for task, workdir, progress in tasks:
            journal = stack.enter_context(Journal(task, workdir, progress))
            if journal.latest_step < task.steps:
                groups[_kind(task), journal.latest_step].append(journal)
            else:
                # It is finished, unless it is a run of other settings.
                journal.begin()
        for journals in groups.values():
            _train(journals)


def _kind(task: TrainingTask) -> str:
    """Returns what trainings that are made together have in common."""
    config = dict(task.config)
    config["model"] = {k: v for k, v in config["model"].items() if k not in _EACH_ITS_OWN}
    config = {k: v for k, v in config.items() if k not in _EACH_ITS_OWN}
    # Folds may have lists of different lengths, and epochs of them different numbers of steps.
    return json.dumps([config, task.steps], default=list, sort_keys=True)


def _train(journals: Sequence[Journal]) -> None:
    tasks = [journal.task for journal in journals]
    first = tasks[0]
    states, (position, *_) = zip(*(journal.begin() for journal in journals), strict=True)
    states = jax.tree.map(lambda *x: jnp.stack(x), *states)
    states = jax.device_put(states, replicated(first.mesh))
    keys = jnp.stack([task.key for task in tasks])
    weights = np.array([task.model.agnostic_weight for task in tasks], np.float32)
    # Heads of one seed and fold learn from the same episodes, which are loaded once.
    names = [(task.seed, task.fold) for task in tasks]
    same_batch = len(set(names)) == 1
    spread = batch_sharding(first.mesh, of_heads=not same_batch)
    step = first.programs(
        make_side_by_side_step,
        first.loaded.network,
        first.transformation,
        first.mesh,
        first.model.level_weight,
        same_batch,
        first.mesh.devices.flat[0].platform != "cpu",
    )
    with contextlib.ExitStack() as stack:
        streams: dict[tuple[int, int], EpisodeIterator] = {}
        for name, task in zip(names, tasks, strict=True):
            if name not in streams:
                streams[name] = stack.enter_context(task.batches(position))
        bar = stack.enter_context(progress_bar(journals[0]))
        signals = stack.enter_context(StopSignals())
        pace = Pace(journals[0].first, first.settings.batch_size * len(tasks))
        for number in range(journals[0].first + 1, first.steps + 1):
            batches = {name: next(stream) for name, stream in streams.items()}
            batch = batches[names[0]] if same_batch else _stacked([batches[n] for n in names])
            batch = processes.assembled(batch, spread)
            states, losses = step(states, first.loaded.backbone_parameters, batch, keys, weights)
            bar.update()
            due = journals[0].is_due(number)
            asked = signals_asked(signals, due)
            if not due and not asked:
                continue
            each_second, totals = pace.until(number, (states, losses)), []
            for head, journal in enumerate(journals):
                state, loss = jax.tree.map(lambda x, head=head: x[head], (states, losses))
                iterator = streams[names[head]].state()
                if due:
                    totals.append(journal.write(number, state, loss, iterator, each_second))
                if asked:
                    journal.stop(number, state, loss, iterator)
            if asked:
                raise journals[0].stopped(number, asked)
            bar.set_postfix(loss=f"{np.mean(totals):.3f}", episodes_per_second=f"{each_second:.1f}")
            pace.restart(number)


def _stacked(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns batches as one, with a leading axis of heads."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
