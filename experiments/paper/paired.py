"""Differences between runs on the same test episodes, with intervals over the images.

Runs are folders as training leaves them, with `results.json` and, in `episodes/`, every episode's
counts. All runs of a fold are tested on the same episodes, so differences are taken episode by
episode: an image that is hard is hard for both.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
COVERAGE = 95


class ImageSums(NamedTuple):
    """A run's foreground, summed by class over the episodes of each block of query images.

    Attributes:
      blocks: names of the blocks.
      classes: names of the classes.
      sums: intersections and unions.
    """

    blocks: tuple[str, ...]
    classes: tuple[str, ...]
    sums: Int[np.ndarray, "blocks classes 2"]


class Interval(NamedTuple):
    """A mean difference in mIoU points, and its interval when other images are drawn."""

    mean: float
    low: float
    high: float


def read_sums(run: Path, shot: int, block: int = 0) -> ImageSums:
    """Returns what a run scored in each block of query images.

    Args:
      run: its folder; of several heads the last is taken.
      shot: number of supports.
      block: how many frames of a video count as one image: names are `SEQUENCE_NUMBER`, and the
        frames of the episodes are counted off in their order. 0: every image by itself.
    """
    episodes = run / "episodes"
    path = next(
        p for n in ("last", "none", "given") if (p := episodes / f"{n}_{shot}shot.jsonl").exists()
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = sorted({line["query"] for line in lines})
    of_name = {name: name for name in names}
    if block:
        of_name = {}
        for sequence in {name.rpartition("_")[0] for name in names}:
            frames = [name for name in names if name.rpartition("_")[0] == sequence]
            of_name |= {name: f"{sequence} {i // block}" for i, name in enumerate(frames)}
    blocks = tuple(sorted(set(of_name.values())))
    classes = tuple(sorted({line["class"] for line in lines}))
    sums = np.zeros((len(blocks), len(classes), 2), np.int64)
    place = {name: number for number, name in enumerate(blocks)}
    for line in lines:
        row = sums[place[of_name[line["query"]]], classes.index(line["class"])]
        row += (line["intersection"][1], line["union"][1])
    return ImageSums(blocks, classes, sums)


def miou(
    sums: Int[np.ndarray, "blocks classes 2"], weights: Float[np.ndarray, "resamples blocks"]
) -> Float[np.ndarray, " resamples"]:
    """Returns the mIoU in percent with each block counted `weights` times.

    A class none of whose blocks is drawn is left out of the mean.
    """
    intersection, union = np.moveaxis(np.einsum("rb,bcx->rcx", weights, sums.astype(float)), -1, 0)
    iou = np.divide(intersection, union, out=np.full_like(union, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, -1)


def difference(
    pairs: Mapping[int, Sequence[tuple[ImageSums, ImageSums]]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the mean difference of mIoU between paired runs, and its interval.

    Blocks are drawn with replacement within each fold, the same for all the fold's runs; the
    differences are averaged over a fold's pairs (its seeds), then over the folds. The interval is
    of the percentiles of what was drawn, and says nothing of how training differs between seeds.

    Args:
      pairs: by fold, the runs to compare, of each the one that should be better first.
      resamples: how often blocks are drawn; 0: the mean alone, which is also both ends.
      seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    drawn, whole = [], []
    for of_fold in pairs.values():
        blocks = len(of_fold[0][0].blocks)
        if any(run.blocks != of_fold[0][0].blocks for pair in of_fold for run in pair):
            raise ValueError("the runs of a fold were tested on different images")
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), resamples).astype(float)
        weights = np.concatenate([np.ones((1, blocks)), weights])
        each = [miou(a.sums, weights) - miou(b.sums, weights) for a, b in of_fold]
        mean = np.mean(each, 0)
        whole.append(mean[0])
        drawn.append(mean[1:])
    mean = float(np.mean(whole))
    if not resamples:
        return Interval(mean, mean, mean)
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(np.mean(drawn, 0), [tail, 100 - tail])
    return Interval(mean, float(low), float(high))
