"""Training of one run, and what it leaves in its workdir on the way."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from apanet_jax.runs.live_report import LiveReport
from apanet_jax.runs.run import Run
from apanet_jax.runs.scoring import evaluate_parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.devices import batch_sharding, replicated
from apanet_jax.runtime.errors import Stopped, StopSignals, UserError
from apanet_jax.runtime.workdir_lock import sole_use
from apanet_jax.training import train_step
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.training.losses import Losses
from apanet_jax.training.metrics_log import MetricsLog
from apanet_jax.training.train_step import TrainState


def train(run: Run, workdir: Path) -> TrainState:
    """Trains the head to its last step and returns the final state.

    Checkpoints, metrics and the config go to `workdir`. A run that was interrupted goes on from
    its newest checkpoint and ends with the same parameters as if it had not been. SIGTERM and
    SIGINT let it finish its step and save a checkpoint of it; several processes agree on that where
    something is due to be written, so it may take `training.log_every` steps.

    Raises:
      UserError: the workdir holds a run of other settings or is in use, nothing can be written to
        it, or the loss is no longer a number.
      Stopped: for a signal, behind the checkpoint.
    """
    config = run.config
    with Journal(run, workdir) as journal:
        state, position = journal.begin()
        if journal.first == run.steps:
            return state
        step = train_step.make_step(
            run.network,
            transformation(run),
            config.model.agnostic_weight,
            run.mesh,
            config.model.level_weight,
        )
        pace = Pace(journal.first, config.training.batch_size)
        key = training_key(run)
        spread = batch_sharding(run.mesh)
        with (
            run.training_batches(position) as episodes,
            progress_bar(journal) as progress,
            StopSignals() as signals,
        ):
            for number in range(journal.first + 1, run.steps + 1):
                batch = processes.assembled(next(episodes), spread)
                state, losses = step(state, run.backbone_parameters, batch, key)
                progress.update()
                due = journal.is_due(number)
                if due:
                    each_second = pace.until(number)
                    loss = journal.write(number, state, losses, episodes.state(), each_second)
                    progress.set_postfix(
                        loss=f"{loss:.3f}", episodes_per_second=f"{each_second:.1f}"
                    )
                    pace.restart(number)
                if asked := signals_asked(signals, due):
                    journal.stop(number, state, losses, episodes.state())
                    raise journal.stopped(number, asked)
    return state


class Journal:
    """What one run leaves in its workdir while it trains; a context manager.

    Attributes:
      run: the run.
      first: the step that `begin` began with.
    """

    def __init__(self, run: Run, workdir: Path):
        """Opens the workdir, which is made where it is missing; nothing is begun yet."""
        self.run, self.first = run, 0
        self._workdir = workdir
        directory = workdir / "checkpoints"
        with contextlib.ExitStack() as opened:
            opened.enter_context(sole_use(workdir))
            self._checkpoints = opened.enter_context(
                Checkpoints(directory, run.fingerprint, set_aside=True)
            )
            self._opened = opened.pop_all()
        self._log: MetricsLog | None = None
        self._report: LiveReport | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error) -> None:
        self._opened.__exit__(*error)

    @property
    def latest_step(self) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        return self._checkpoints.latest_step() or 0

    def begin(self) -> tuple[TrainState, int]:
        """Returns the newest checkpoint's state and its place among the batches, or first ones.

        Raises:
          UserError: the workdir holds a run of other settings.
        """
        run, self.first = self.run, self.latest_step
        if self.first:
            like = abstract_state(run.network.head, run.config.backbone.name)
            sharding = replicated(run.mesh)
            state, iterator = self._checkpoints.restore(self.first, like, sharding)
            position = iterator["position"]
            print(f"going on from step {self.first} of {run.steps} in {self._workdir}", flush=True)
        else:
            state, position = _initial_state(run), 0
        if processes.is_leader():
            write_json(self._workdir / "config.json", self.run.config.to_dict())
            self._log = self._opened.enter_context(MetricsLog(self._workdir, self.first))
        self._report = self._opened.enter_context(LiveReport(run, self._workdir))
        return state, position

    def is_due(self, number: int) -> bool:
        """Returns whether something is to be written after step `number`."""
        return self._saves(number) or number % self.run.config.training.log_every == 0

    def write(
        self,
        number: int,
        state: TrainState,
        losses: Losses,
        iterator: dict[str, Any],
        episodes_per_second: float,
    ) -> float:
        """Writes what is due after step `number`; returns the total loss.

        Args:
          number: of the step.
          state: after it.
          losses: of it.
          iterator: the state of the batches.
          episodes_per_second: since the last time.

        Raises:
          UserError: the loss is no longer a number.
        """
        rate = float(_schedule(self.run)(number - 1))
        losses = self._finite(losses, number, rate)
        self._note(
            number,
            loss=losses.total,
            loss_specific=losses.specific,
            loss_agnostic=losses.agnostic,
            learning_rate=rate,
            episodes_per_second=episodes_per_second,
        )
        miou = None
        if self._validates(number):
            evaluation = self.run.config.evaluation
            episodes = min(evaluation.validation_episodes, self.run.test_count)
            scores = evaluate_parameters(
                self.run, state.parameters, self.run.test_shots[0], episodes
            )
            miou = scores.miou
            self._note(number, validation_miou=miou, validation_fb_iou=scores.fb_iou)
        if self._saves(number):
            self._checkpoints.save(state, iterator, miou)
            if not sys.stderr.isatty():
                # There is no bar in a file.
                validated = "" if miou is None else f", validation mIoU {miou:.1f}"
                print(
                    f"step {number} of {self.run.steps}: loss {losses.total:.3f}{validated}",
                    flush=True,
                )
        self._report.update()
        return losses.total

    def stop(
        self, number: int, state: TrainState, losses: Losses, iterator: dict[str, Any]
    ) -> None:
        """Saves a checkpoint of step `number`, unless `write` did; see there for the arguments."""
        if not self._saves(number):
            self._finite(losses, number, float(_schedule(self.run)(number - 1)))
            self._checkpoints.save(state, iterator)

    def stopped(self, number: int, signal_number: int) -> Stopped:
        """Returns what to raise when a signal stops the run behind step `number`."""
        return Stopped(
            signal_number,
            f"stopped behind step {number} of {self.run.steps}, which is saved in {self._workdir}: "
            "the same command goes on from there",
            together=True,
        )

    def _note(self, number: int, **values: float) -> None:
        if self._log is not None:
            self._log.write(number, **values)

    def _validates(self, number: int) -> bool:
        every = self.run.config.evaluation.every
        return bool(every) and (number % every == 0 or number == self.run.steps)

    def _saves(self, number: int) -> bool:
        every = self.run.config.training.checkpoint_every
        return self._validates(number) or number % every == 0 or number == self.run.steps

    def _finite(self, losses: Losses, step: int, rate: float) -> Losses:
        losses = Losses(*(float(x) for x in jax.device_get(losses)))
        if not np.isfinite(losses.total):
            raise UserError(
                f"the loss is {losses.total} at step {step} (learning rate {rate:.3g}); the newest "
                f"good checkpoint is of step {self.latest_step or None}: lower "
                "training.learning_rate or training.rate_factor, and take another --workdir"
            )
        return losses


def signals_asked(signals: StopSignals, due: bool) -> int | None:
    """Returns the signal that stops the run behind this step, None where it goes on.

    Args:
      signals: that came to this process. Those of other processes count as well.
      due: whether something is written behind this step: several processes wait for the losses
        then, and ask each other only there.
    """
    if processes.several():
        return processes.any_asked(signals.asked) if due else None
    return signals.asked


class Pace:
    """Episodes a second, without the time that writing takes."""

    def __init__(self, number: int, batch_size: int):
        """Starts after step `number`."""
        self._batch_size = batch_size
        self.restart(number)

    def restart(self, number: int) -> None:
        """Starts anew after step `number`."""
        self._number, self._started = number, time.perf_counter()

    def until(self, number: int) -> float:
        """Returns the pace from the start to step `number`."""
        seconds = time.perf_counter() - self._started
        return (number - self._number) * self._batch_size / seconds


def progress_bar(journal: Journal) -> tqdm:
    """Returns the bar of a run's steps."""
    return tqdm(
        total=journal.run.steps,
        initial=journal.first,
        unit="step",
        desc="training",
        disable=None,
    )


def training_key(run: Run) -> PRNGKeyArray:
    """Returns the key that a run's steps draw from, on every device."""
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    # Keys themselves cannot be put onto the devices of other processes.
    words = np.asarray(jax.random.key_data(key))
    return jax.random.wrap_key_data(
        jax.device_put(words, replicated(run.mesh)), impl=jax.random.key_impl(key)
    )


def transformation(run: Run) -> optax.GradientTransformation:
    """Returns a run's optimizer; runs of the same settings share it."""
    training = run.config.training
    return train_step.optimizer(
        _schedule(run), momentum=training.momentum, weight_decay=training.weight_decay
    )


def _schedule(run: Run) -> optax.Schedule:
    training = run.config.training
    return train_step.poly_schedule(training.learning_rate * training.rate_factor, run.steps)


def _initial_state(run: Run) -> TrainState:
    state = train_step.create_state(
        run.network,
        run.backbone_parameters,
        run.config.image_size,
        transformation(run),
        jax.random.key(run.config.seed),
    )
    return jax.device_put(state, replicated(run.mesh))
