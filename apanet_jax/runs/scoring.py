"""What a run's trained heads score, from their checkpoints to `results.json`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from apanet_jax import __version__
from apanet_jax.data.episode_files import write_episodes
from apanet_jax.data.folds import novel_classes
from apanet_jax.evaluation.metrics import EpisodeCounts, SummedCounts
from apanet_jax.models.network import Parameters
from apanet_jax.runs.run import Run
from apanet_jax.runtime import compilation, processes
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, abstract_state


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
    if run.loaded.given_head is not None:
        return [TrainedHead("given", None, run.loaded.given_head)]
    nothing = UserError(f"{workdir} holds no checkpoint: train first (--mode=train)")
    if not (workdir / "checkpoints").is_dir():
        raise nothing
    with Checkpoints(workdir / "checkpoints", run.fingerprint) as checkpoints:
        chosen = {"best": checkpoints.best_step(), "last": checkpoints.latest_step()}
        if chosen["last"] is None:
            raise nothing
        like = abstract_state(run.network.head, run.settings.backbone.name)
        sharding = replicated(run.mesh)
        return [
            TrainedHead(name, step, checkpoints.restore(step, like, sharding)[0].parameters)
            for name, step in chosen.items()
            if step is not None
        ]


def evaluate_checkpoints(run: Run, workdir: Path) -> list[dict[str, Any]]:
    """Evaluates the trained heads on all test episodes; writes `results.json`.

    Where the config asks for it, `episodes/<head>_<K>shot.jsonl` holds every episode's counts.

    Raises:
      UserError: there is no checkpoint, or a novel class has no test episode and
        `evaluation.require_all_classes` asks for all.
    """
    results = []
    if run.settings.evaluation.require_all_classes:
        _require_all_classes(run)
    for head, shot, counts, class_id in counted(run, workdir):
        results.append(result(run, head, shot, counts, class_id))
        if run.settings.evaluation.write_episodes and processes.is_leader():
            write_counts(run, workdir, head.name, shot, counts)
    if processes.is_leader():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "results.json", results)
    return results


def counted(
    run: Run, workdir: Path
) -> Iterator[tuple[TrainedHead, int, EpisodeCounts, np.ndarray]]:
    """Yields every trained head with each number of shots: counts and classes of the episodes.

    All heads are scored together, as they share the embedding.

    Raises:
      UserError: there is no checkpoint.
    """
    heads, shots = trained_heads(run, workdir), run.data.test_shots
    found = run.evaluator.count_all([head.parameters for head in heads], shots, run.data.test_count)
    for place, head in enumerate(heads):
        for shot in shots:
            yield head, shot, *found[shot][place]


def _require_all_classes(run: Run) -> None:
    for shot in run.data.test_shots:
        draw = run.data.draw_test(shot)
        shown = {draw(number).class_id for number in range(run.data.test_count)}
        if missing := unseen_classes(run, shown):
            raise UserError(
                f"evaluation.require_all_classes: none of the {run.data.test_count} {shot}-shot "
                f"test episodes shows {', '.join(missing)}; take more episodes, a smaller "
                "data.min_area, or leave the setting out"
            )


def unseen_classes(run: Run, shown: Iterable[int]) -> list[str]:
    """Returns the names of the fold's novel classes that are not among the ids `shown`."""
    names = run.records.class_names
    novel = novel_classes(run.records, run.settings.fold)
    return [names[c - 1] for c in novel if c not in set(shown)]


def write_counts(run: Run, workdir: Path, name: str, shot: int, counts: EpisodeCounts) -> None:
    """Writes the test episodes with `shot` supports, and what `name` scored in each.

    To `episodes/<name>_<K>shot.jsonl`, see `data.episode_files`.
    """
    draw = run.data.draw_test(shot)
    path = workdir / "episodes" / f"{name}_{shot}shot.jsonl"
    write_episodes(path, run.records, map(draw, range(run.data.test_count)), counts)


def _summed(run: Run, counts: EpisodeCounts, class_id: np.ndarray) -> SummedCounts:
    sums = SummedCounts(len(run.records.class_names))
    sums.add(counts, class_id)
    return sums


def result(
    run: Run, head: TrainedHead, shot: int, counts: EpisodeCounts, class_id: np.ndarray
) -> dict[str, Any]:
    """Returns what `results.json` says of a head's test episodes with `shot` supports."""
    config, sums = run.settings, _summed(run, counts, class_id)
    scores = sums.scores()
    names = run.records.class_names
    return {
        "dataset": config.dataset or run.records.name,
        "fold": config.fold,
        "shot": shot,
        "backbone": config.backbone.name,
        "num_clusters": config.model.num_clusters,
        "agnostic_weight": config.model.agnostic_weight,
        "training_list": config.data.training_list,
        "checkpoint": head.name,
        "checkpoint_file": config.evaluation.checkpoint or None,
        "step": head.step,
        "episodes": run.data.test_count,
        "seed": None if run.data.listed else config.evaluation.seed,
        "episode_list": config.evaluation.list or None,
        "training_seed": config.seed,
        "miou": round(scores.miou, 4),
        "fb_iou": round(scores.fb_iou, 4),
        "classes_unseen": unseen_classes(run, scores.iou_per_class),
        "iou_per_class": {names[c - 1]: round(v, 4) for c, v in scores.iou_per_class.items()},
        "counts": {
            "background": _pair(sums.intersection.sum(0)[0], sums.union.sum(0)[0]),
            "per_class": {
                names[c - 1]: _pair(sums.intersection[c, 1], sums.union[c, 1])
                for c in scores.iou_per_class
            },
        },
        **environment(run),
        "resize": config.evaluation.resize,
        "deterministic": compilation.is_deterministic(),
        "data_fingerprint": run.records.fingerprint,
        "weights_fingerprint": run.loaded.fingerprint,
        "weights_origin": run.loaded.origin._asdict(),
        "config_fingerprint": run.fingerprint,
    }


def environment(run: Run) -> dict[str, Any]:
    """Returns the versions and the device that a run works with."""
    return {
        "versions": {
            "apanet_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
        "device": f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}",
    }


def _pair(intersection: np.int64, union: np.int64) -> list[int]:
    """Pixels in the intersection and in the union."""
    return [int(intersection), int(union)]
