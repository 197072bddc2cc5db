"""Compares a run's head with those that come with the package, on the run's own test images.

Unlike test episodes, each image is segmented as `apanet_jax.predict` does it: a class has one set
of supports, and every head its own size and thresholds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.transforms import binary_label
from apanet_jax.inference.heads.bundled import large_at_hand
from apanet_jax.inference.heads.head_choice import AUTO, DINOV2, DRAWN, SMALL
from apanet_jax.inference.matching.geometry import grid_of
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.inference.segmenter import Segmenter, load
from apanet_jax.models.network import Parameters
from apanet_jax.reports.head_comparison import FILE, OWN, UNTRAINED
from apanet_jax.runs.run import Run
from apanet_jax.runtime.atomic_files import write_json


class Task(NamedTuple):
    """A novel class with the test images that show it, by number."""

    class_id: int
    supports: list[int]
    queries: list[int]


def compare_heads(run: Run, parameters: Parameters, folder: Path) -> list[dict[str, Any]]:
    """Scores the run's head, those of the package and none; writes `heads.json`.

    Args:
      run: its settings say how many images of a class are looked at.
      parameters: of its trained head.
      folder: the run's.

    Returns:
      The rows, see `reports.head_comparison`; none where no class has enough images.
    """
    tasks, rows = tasks_of(run), []
    if not tasks:
        return rows
    for name, use, segmenter in _segmenters(run, parameters):
        for task in tasks:
            rows += [{"head": name, "use": use} | row for row in _rows(run, segmenter, task)]
    write_json(folder / FILE, rows)
    return rows


def tasks_of(run: Run) -> list[Task]:
    """Draws supports and queries of each novel class that has enough test images."""
    evaluation, lists = run.settings.evaluation, run.data.novel
    shots, rng = max(run.data.test_shots), np.random.default_rng(evaluation.seed)
    tasks = []
    for class_id, images in sorted(lists.supports.items()):
        order = [int(image) for image in rng.permutation(images)]
        supports = order[:shots]
        queries = [
            x for x in order[shots:] if np.isin(supports, lists.candidates(x, class_id)).all()
        ]
        if len(supports) == shots and queries:
            tasks.append(Task(class_id, supports, queries[: evaluation.bundled]))
    return tasks


def _segmenters(run: Run, parameters: Parameters) -> Iterator[tuple[str, str, Segmenter]]:
    """Yields each head's name and how it is chosen; nothing is downloaded for it."""
    backbone = run.settings.backbone.name
    matcher = HeadMatcher(
        run.network,
        parameters,
        run.loaded.local_backbone_parameters,
        grid_of(backbone, run.settings.image_size),
    )
    yield OWN, "", Segmenter(matcher)
    large = large_at_hand()
    for head in (DINOV2, SMALL, DRAWN):
        if large or head != DINOV2:
            yield head, f"--head={head}", load(head=head)
    best = AUTO if large else SMALL
    yield UNTRAINED, f"--head={best} --untrained", load(head=best, trained=False)


def _rows(run: Run, segmenter: Segmenter, task: Task) -> Iterator[dict[str, Any]]:
    split = run.data.test_split
    supports = [split[number] for number in task.supports]
    masks = [binary_label(x["label"], task.class_id) for x in supports]
    segmenter.fit([x["image"] for x in supports], masks)
    for number in task.queries:
        query = split[number]
        truth = binary_label(query["label"], task.class_id)
        (answer,) = segmenter.answers([query["image"]])
        mask = answer.mask(0) & (truth != IGNORE)
        either = np.count_nonzero(mask | (truth == 1))
        yield {
            "class": run.records.class_names[task.class_id - 1],
            "supports": len(supports),
            "image": query["name"],
            "iou": round(100 * np.count_nonzero(mask & (truth == 1)) / either, 2),
        }
