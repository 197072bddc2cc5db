"""Training and evaluation of one run, from its config to `results.json`."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from apanet_jax import train_step
from apanet_jax.checkpoint import Checkpoints
from apanet_jax.data.episode_files import write_episodes
from apanet_jax.data.loader import EpisodeIterator
from apanet_jax.errors import UserError
from apanet_jax.metrics import EpisodeCounts, Scores, SummedCounts
from apanet_jax.models.network import Parameters
from apanet_jax.reporting import MetricsLog
from apanet_jax.run import Run
from apanet_jax.train_step import Losses, TrainState
from apanet_jax.whole_files import write_json


def train_and_evaluate(run: Run, workdir: Path) -> list[dict[str, Any]]:
    """Trains, or goes on where the workdir's run stopped, then evaluates; returns the results."""
    train(run, workdir)
    return evaluate_checkpoints(run, workdir)


def train(run: Run, workdir: Path) -> TrainState:
    """Trains the head to its last step and returns the final state.

    Checkpoints, metrics and the config go to `workdir`. A run that was interrupted goes on from
    its newest checkpoint and ends with the same parameters as if it had not been.

    Raises:
      UserError: the workdir holds a run of other settings, or the loss is no longer a number.
    """
    config = run.config
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir / "checkpoints", run.fingerprint) as checkpoints:
        transformation = _transformation(run)
        state = _initial_state(run, transformation)
        position = 0
        latest = checkpoints.latest_step()
        if latest is not None:
            sharding = train_step.replicated(run.mesh)
            state, iterator_state = checkpoints.restore(latest, state, sharding)
            position = iterator_state["position"]
            print(f"going on from step {latest} of {run.steps} in {workdir}", flush=True)
        write_json(workdir / "config.json", config.to_dict())
        if int(state.step) >= run.steps:
            return state
        step = train_step.make_step(
            run.network,
            transformation,
            config.model.agnostic_weight,
            run.mesh,
            config.model.level_weight,
        )
        with (
            run.training_batches(position) as episodes,
            MetricsLog(workdir, int(state.step)) as log,
            tqdm(
                total=run.steps,
                initial=int(state.step),
                unit="step",
                desc="training",
                disable=None,
            ) as progress,
        ):
            return _loop(run, step, state, episodes, checkpoints, log, progress)


class TrainedHead(NamedTuple):
    """A head to evaluate.

    Attributes:
      name: "best" on validation, or "last"; "given" from a file.
      step: of the training; None where it was given.
      parameters: of the head.
    """

    name: str
    step: int | None
    parameters: Parameters


def trained_heads(run: Run, workdir: Path) -> list[TrainedHead]:
    """Returns the given head, or the workdir's best on validation (if it validated) and last.

    Raises:
      UserError: there is no checkpoint.
    """
    if run.given_head is not None:
        return [TrainedHead("given", None, run.given_head)]
    with Checkpoints(workdir / "checkpoints", run.fingerprint) as checkpoints:
        chosen = {"best": checkpoints.best_step(), "last": checkpoints.latest_step()}
        if chosen["last"] is None:
            raise UserError(f"{workdir} holds no checkpoint: train first (--mode=train)")
        like = jax.eval_shape(lambda: _initial_state(run, _transformation(run)))
        sharding = train_step.replicated(run.mesh)
        return [
            TrainedHead(name, step, checkpoints.restore(step, like, sharding)[0].parameters)
            for name, step in chosen.items()
            if step is not None
        ]


def evaluate_checkpoints(run: Run, workdir: Path) -> list[dict[str, Any]]:
    """Evaluates the trained heads on all test episodes; writes `results.json`.

    Where the config asks for it, `episodes/<head>_<K>shot.jsonl` holds every episode's counts.

    Raises:
      UserError: there is no checkpoint.
    """
    results = []
    for head in trained_heads(run, workdir):
        for shot in run.test_shots:
            counts, class_id = run.count_episodes(head.parameters, shot, run.test_count)
            results.append(_result(run, head, shot, _scores(run, counts, class_id)))
            if run.config.evaluation.write_episodes:
                draw = run.draw_test(shot)
                path = workdir / "episodes" / f"{head.name}_{shot}shot.jsonl"
                write_episodes(path, run.records, map(draw, range(run.test_count)), counts)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "results.json", results)
    return results


def evaluate_parameters(run: Run, parameters: Parameters, shot: int, episodes: int) -> Scores:
    """Returns the scores of a head on the first `episodes` test episodes with `shot` supports."""
    return _scores(run, *run.count_episodes(parameters, shot, episodes))


def _scores(run: Run, counts: EpisodeCounts, class_id: np.ndarray) -> Scores:
    sums = SummedCounts(len(run.records.class_names))
    sums.add(counts, class_id)
    return sums.scores()


def _transformation(run: Run):
    training = run.config.training
    schedule = train_step.poly_schedule(training.learning_rate * training.rate_factor, run.steps)
    return train_step.optimizer(
        schedule, momentum=training.momentum, weight_decay=training.weight_decay
    )


def _initial_state(run: Run, transformation) -> TrainState:
    state = train_step.create_state(
        run.network,
        run.backbone_parameters,
        run.config.image_size,
        transformation,
        jax.random.key(run.config.seed),
    )
    return jax.device_put(state, train_step.replicated(run.mesh))


def _loop(run, step, state, episodes: EpisodeIterator, checkpoints, log, progress) -> TrainState:
    config = run.config
    training, every = config.training, config.evaluation.every
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    rate = train_step.poly_schedule(training.learning_rate * training.rate_factor, run.steps)
    started, logged = time.perf_counter(), int(state.step)
    for number in range(int(state.step) + 1, run.steps + 1):
        state, losses = step(state, run.backbone_parameters, next(episodes), key)
        progress.update()
        last = number == run.steps
        validate = every and (number % every == 0 or last)
        save = validate or last or number % training.checkpoint_every == 0
        if save or number % training.log_every == 0:
            losses = _finite(losses, number, float(rate(number - 1)), checkpoints)
            seconds = time.perf_counter() - started
            pace = (number - logged) * training.batch_size / seconds
            progress.set_postfix(loss=f"{losses.total:.3f}", episodes_per_second=f"{pace:.1f}")
            log.write(
                number,
                loss=losses.total,
                loss_specific=losses.specific,
                loss_agnostic=losses.agnostic,
                learning_rate=float(rate(number - 1)),
                episodes_per_second=pace,
            )
        miou = None
        if validate:
            scores = evaluate_parameters(
                run,
                state.parameters,
                run.test_shots[0],
                min(config.evaluation.validation_episodes, run.test_count),
            )
            miou = scores.miou
            log.write(number, validation_miou=miou, validation_fb_iou=scores.fb_iou)
        if save:
            checkpoints.save(state, episodes.state(), miou)
        if save or number % training.log_every == 0:
            # Neither validating nor saving counts as training time.
            started, logged = time.perf_counter(), number
    return state


def _finite(losses: Losses, step: int, rate: float, checkpoints: Checkpoints) -> Losses:
    losses = Losses(*(float(x) for x in jax.device_get(losses)))
    if not np.isfinite(losses.total):
        raise UserError(
            f"the loss is {losses.total} at step {step} (learning rate {rate:.3g}); the newest "
            f"good checkpoint is of step {checkpoints.latest_step()}: lower training.learning_rate "
            "or training.rate_factor, and take another --workdir"
        )
    return losses


def _result(run: Run, head: TrainedHead, shot: int, scores: Scores) -> dict[str, Any]:
    config = run.config
    names = run.records.class_names
    return {
        "dataset": config.dataset or run.records.name,
        "fold": config.fold,
        "shot": shot,
        "backbone": config.backbone.name,
        "num_clusters": config.model.num_clusters,
        "agnostic_weight": config.model.agnostic_weight,
        "checkpoint": head.name,
        "checkpoint_file": config.evaluation.checkpoint or None,
        "step": head.step,
        "episodes": run.test_count,
        "seed": None if run.listed else config.evaluation.seed,
        "episode_list": config.evaluation.list or None,
        "training_seed": config.seed,
        "miou": round(scores.miou, 4),
        "fb_iou": round(scores.fb_iou, 4),
        "iou_per_class": {names[c - 1]: round(v, 4) for c, v in scores.iou_per_class.items()},
    }
