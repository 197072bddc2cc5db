"""Episodes: a query image, a class in it, and the images that support it.

An episode is a pure function of a seed and its number, so that any worker, in any order and after
any interruption, draws the same one. "Images" are numbers of images in their split.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from apanet_jax.data.records.reading import RecordSplit
from apanet_jax.runtime.errors import UserError

TRAINING_LISTS = ("all", "no_novel")
"""Which images a fold trains on: all with a base class (PFENet, the paper), or of these only the
ones without any pixel of a novel class (BAM, HDMNet and most work since 2022)."""

_TRAINING, _EVALUATION, _ORDER, _HIDDEN = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class EpisodeLists:
    """The images that episodes of some classes are drawn from.

    Attributes:
      queries: the images listed for any of the classes, in the split's order.
      classes: for each query the ids of the classes that an episode can ask it for: all that are in
        it, however small, and have enough supports.
      supports: by class id, the images that hold enough of it.
      left_out: ids of the classes that no episode can ask for, in order.
      video: which video each image of the split is from; empty where `support_gap` is 0.
      rank: of each image in its video.
      support_gap: supports from the query's video are at least this many frames from it.
    """

    queries: Int[np.ndarray, " queries"]
    classes: tuple[Int[np.ndarray, " present"], ...]
    supports: dict[int, Int[np.ndarray, " images"]]
    left_out: tuple[int, ...]
    video: Int[np.ndarray, " images"]
    rank: Int[np.ndarray, " images"]
    support_gap: int

    def candidates(self, query: int, class_id: int) -> Int[np.ndarray, " candidates"]:
        """Returns the images that may support `query`; never itself."""
        images = self.supports[class_id]
        if not self.support_gap:
            return images[images != query]
        near = (self.video[images] == self.video[query]) & (
            np.abs(self.rank[images] - self.rank[query]) < self.support_gap
        )
        return images[~near]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode; images are numbers in their split.

    Attributes:
      query: the image to segment.
      class_id: the class that is foreground.
      supports: the support set's images, all different.
    """

    query: int
    class_id: int
    supports: tuple[int, ...]


Draw = Callable[[int], Episode]
"""From an episode's number to the episode; picklable, for worker processes."""


def episode_lists(
    split: RecordSplit,
    class_ids: Sequence[int],
    *,
    shot: int,
    without: Sequence[int] = (),
    support_gap: int = 0,
    min_area: int = 2048,
    class_names: Sequence[str] | None = None,
) -> EpisodeLists:
    """Lists the images for episodes of `class_ids` with up to `shot` supports.

    An image belongs to a class's list if the class covers at least `min_area` pixels of it. Classes
    with too few images for any episode are left out; `left_out_line` says which.

    Args:
      split: the images.
      class_ids: the classes to draw episodes of.
      shot: supports of an episode.
      without: classes none of whose images is listed, neither as query nor as support: a fold's
        novel ones for the training list "no_novel" (see `TRAINING_LISTS`).
      support_gap: for frames of videos, named `VIDEO_NUMBER`: supports come from another video, or
        are at least this many names away from the query among the sorted names of its own.
      min_area: pixels.
      class_names: of the classes 1..C, for the error's words.

    Raises:
      UserError: every class has too few images.
    """
    class_ids = tuple(class_ids)
    ids, least = np.array(class_ids, int), max(min_area, 1)
    admitted = ~(split.areas[:, list(without)] > 0).any(1)
    supports = {c: np.flatnonzero(admitted & (split.areas[:, c] >= least)) for c in class_ids}
    listed = np.unique(np.concatenate([np.empty(0, int), *supports.values()]))
    video, rank = _videos(split.names) if support_gap else (np.empty(0, int), np.empty(0, int))
    lists = EpisodeLists(listed, (), supports, (), video, rank, support_gap)
    areas = split.areas[np.ix_(listed, ids)]
    present = areas > 0
    if support_gap:
        for row, column in np.argwhere(present):
            candidates = lists.candidates(listed[row], class_ids[column])
            present[row, column] = len(candidates) >= shot
    else:
        # What `candidates` would count: a list of 80,000 images is too long to ask one by one.
        counts = np.array([len(supports[c]) for c in class_ids], int)
        present &= counts - (areas >= least) >= shot
    left_out = tuple(int(c) for c in ids[~present.any(0)])
    usable = present.any(1)
    lists = dataclasses.replace(
        lists,
        queries=listed[usable],
        classes=tuple(ids[row] for row in present[usable]),
        left_out=left_out,
    )
    if class_ids and len(left_out) == len(class_ids):
        line = left_out_line(lists, "the drawing", class_names, shot=shot, min_area=min_area)
        raise UserError(
            f"{line}; take fewer shots, a smaller data.min_area or data.support_gap, or more images"
        )
    return lists


def left_out_line(
    lists: EpisodeLists,
    purpose: str,
    class_names: Sequence[str] | None = None,
    *,
    shot: int,
    min_area: int,
) -> str:
    """Returns one line that names the classes without an episode; empty where there are none.

    Args:
      lists: made with `shot` and `min_area`.
      purpose: what the episodes are for, such as "training".
      class_names: of the classes 1..C.
      shot: supports of an episode.
      min_area: pixels that put an image on a class's list.
    """
    if not lists.left_out:
        return ""
    names = [class_names[c - 1] if class_names else f"class {c}" for c in lists.left_out]
    return (
        f"left out of {purpose}, {len(names)} of {len(lists.supports)} classes: "
        f"{', '.join(names)} (beside a query an episode needs {shot} supports with at least "
        f"{min_area} pixels of its class)"
    )


def with_hidden_share(
    lists: EpisodeLists, split: RecordSplit, hidden_ids: tuple[int, ...], share: float, *, seed: int
) -> EpisodeLists:
    """Keeps queries so that `share` of them hold a hidden class, as many queries for any share.

    Their number is the largest that every share can have, so that what is learned from them
    compares. Supports stay.

    Args:
      lists: the episodes.
      split: of the images.
      hidden_ids: classes that no episode asks for, of which an image may hold some pixels.
      share: 0 to 1.
      seed: of the choice, which is nested: a larger share keeps the queries with a hidden class
        that a smaller one has.

    Raises:
      UserError: all queries hold a hidden class, or none does.
    """
    holds = split.areas[np.ix_(lists.queries, np.array(hidden_ids, int))].any(1)
    rng = np.random.default_rng([seed, _HIDDEN])
    hidden, clean = (rng.permutation(np.flatnonzero(x)) for x in (holds, ~holds))
    count = min(len(hidden), len(clean))
    if not count:
        raise UserError(
            f"data.hidden_share={share} needs training images with and without novel classes: "
            f"{len(hidden)} have some, {len(clean)} have none"
        )
    with_hidden = round(share * count)
    kept = np.sort(np.concatenate([hidden[:with_hidden], clean[: count - with_hidden]]))
    return dataclasses.replace(
        lists, queries=lists.queries[kept], classes=tuple(lists.classes[i] for i in kept)
    )


def draw_training(
    lists: EpisodeLists, index: int, *, seed: int, shot: int, batch_size: int = 1
) -> Episode:
    """Returns training episode `index`: an epoch asks each query once, in an order of its own.

    Those that would be left for a partial batch of `batch_size` at an epoch's end are not asked in
    that epoch, unless the whole list is smaller than a batch.
    """
    count = len(lists.queries)
    epoch, position = divmod(index, count - count % batch_size or count)
    order = _epoch_order(seed, epoch, count)
    return _draw(lists, int(order[position]), np.random.default_rng([seed, _TRAINING, index]), shot)


def draw_evaluation(lists: EpisodeLists, index: int, *, seed: int, shot: int) -> Episode:
    """Returns test episode `index`: the queries in the list's order, round after round."""
    rng = np.random.default_rng([seed, _EVALUATION, index])
    return _draw(lists, index % len(lists.queries), rng, shot)


def _draw(lists: EpisodeLists, position: int, rng: np.random.Generator, shot: int) -> Episode:
    query = int(lists.queries[position])
    class_id = int(rng.choice(lists.classes[position]))
    supports = rng.choice(lists.candidates(query, class_id), shot, replace=False)
    return Episode(query, class_id, tuple(int(s) for s in supports))


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


def _videos(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the videos that frames called `VIDEO_NUMBER` are from, and ranks each in its own."""
    prefixes = np.array([name.rpartition("_")[0] for name in names])
    _, video = np.unique(prefixes, return_inverse=True)
    rank = np.zeros(len(names), int)
    order = np.argsort(np.array(names), kind="stable")
    for v in range(video.max() + 1):
        members = order[video[order] == v]
        rank[members] = np.arange(len(members))
    return video, rank
