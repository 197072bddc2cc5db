"""Episodes: which picture is the query, of which class, with which supports.

An episode is a pure function of a seed and its number, so that any worker, in any order and after
any interruption, makes the same one.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from apanet_jax.data.records import RecordSplit
from apanet_jax.runtime.errors import UserError

_TRAINING, _EVALUATION, _ORDER, _HIDDEN = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Apart:
    """Keeps supports away from the query among the frames of a video.

    Pictures are named `SEQUENCE_NUMBER`; supports come from another sequence, or stand at least
    `gap` names away among the sorted names of the query's.

    Attributes:
      gap: in names.
    """

    gap: int


@dataclasses.dataclass(frozen=True)
class EpisodeLists:
    """The pictures that episodes of some classes are drawn from.

    Attributes:
      queries: indices of the pictures listed for any of the classes, in the split's order.
      classes: for each query the ids of the classes that it can be asked for: all that are in it,
        however small, and have supports enough.
      supports: by class id, the indices of the pictures that hold enough of it.
      sequence: of each picture of the split; empty where supports may be anywhere.
      rank: of each picture in its sequence.
      gap: supports of the query's sequence are at least so many ranks away.
    """

    queries: Int[np.ndarray, " queries"]
    classes: tuple[Int[np.ndarray, " present"], ...]
    supports: dict[int, Int[np.ndarray, " pictures"]]
    sequence: Int[np.ndarray, " pictures"]
    rank: Int[np.ndarray, " pictures"]
    gap: int

    def candidates(self, query: int, class_id: int) -> Int[np.ndarray, " candidates"]:
        """Returns the pictures that may support `query`; never itself."""
        pictures = self.supports[class_id]
        if not self.gap:
            return pictures[pictures != query]
        near = (self.sequence[pictures] == self.sequence[query]) & (
            np.abs(self.rank[pictures] - self.rank[query]) < self.gap
        )
        return pictures[~near]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode; pictures are indices into their split.

    Attributes:
      query: the picture to segment.
      class_id: of the thing to find.
      supports: different pictures that show it.
    """

    query: int
    class_id: int
    supports: tuple[int, ...]


Draw = Callable[[int], Episode]
"""From an episode's number to the episode; picklable, for worker processes."""


def episode_lists(
    split: RecordSplit,
    class_ids: tuple[int, ...],
    *,
    shot: int,
    apart: Apart | None = None,
    min_area: int = 2048,
) -> EpisodeLists:
    """Lists the pictures for episodes of `class_ids` with up to `shot` supports.

    A picture belongs to a class's list if the class covers at least `min_area` pixels of it.

    Raises:
      UserError: a class has too few pictures for any episode.
    """
    ids, least = np.array(class_ids, int), max(min_area, 1)
    supports = {c: np.flatnonzero(split.areas[:, c] >= least) for c in class_ids}
    listed = np.unique(np.concatenate([np.empty(0, int), *supports.values()]))
    sequence, rank = _sequences(split.names) if apart else (np.empty(0, int), np.empty(0, int))
    lists = EpisodeLists(listed, (), supports, sequence, rank, apart.gap if apart else 0)
    areas = split.areas[np.ix_(listed, ids)]
    present = areas > 0
    if lists.gap:
        for row, column in np.argwhere(present):
            candidates = lists.candidates(listed[row], class_ids[column])
            present[row, column] = len(candidates) >= shot
    else:
        # What `candidates` would count: a list of 80,000 pictures is too long to ask one by one.
        counts = np.array([len(supports[c]) for c in class_ids], int)
        present &= counts - (areas >= least) >= shot
    asked = set(ids[present.any(0)])
    for c in class_ids:
        if c not in asked:
            raise UserError(
                f"class {c} has {len(supports[c])} pictures with at least {min_area} pixels of it, "
                f"and no query among them has the {shot} supports it needs: take fewer shots, a "
                "smaller data.min_area or data.support_gap, or more pictures"
            )
    usable = present.any(1)
    return dataclasses.replace(
        lists, queries=listed[usable], classes=tuple(ids[row] for row in present[usable])
    )


def with_hidden_share(
    lists: EpisodeLists, split: RecordSplit, hidden_ids: tuple[int, ...], share: float, *, seed: int
) -> EpisodeLists:
    """Keeps as many queries as can have any share of hidden classes, `share` of them with one.

    There are as many whatever the share, so that what is learned from them compares. Supports stay.

    Args:
      lists: the episodes.
      split: of the pictures.
      hidden_ids: classes that no episode asks for, of which a picture may hold some pixels.
      share: 0 to 1.
      seed: of the choice, which is nested: a larger share keeps the hidden pictures of a smaller.

    Raises:
      UserError: all queries hold a hidden class, or none does.
    """
    holds = split.areas[np.ix_(lists.queries, np.array(hidden_ids, int))].any(1)
    rng = np.random.default_rng([seed, _HIDDEN])
    hidden, clean = (rng.permutation(np.flatnonzero(x)) for x in (holds, ~holds))
    count = min(len(hidden), len(clean))
    if not count:
        raise UserError(
            f"data.hidden_share={share} needs training pictures with and without novel classes: "
            f"{len(hidden)} have some, {len(clean)} have none"
        )
    with_some = round(share * count)
    kept = np.sort(np.concatenate([hidden[:with_some], clean[: count - with_some]]))
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


def _sequences(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the sequences that `names` belong to, and ranks each name in its own."""
    prefixes = np.array([name.rpartition("_")[0] for name in names])
    _, sequence = np.unique(prefixes, return_inverse=True)
    rank = np.zeros(len(names), int)
    order = np.argsort(np.array(names), kind="stable")
    for s in range(sequence.max() + 1):
        members = order[sequence[order] == s]
        rank[members] = np.arange(len(members))
    return sequence, rank
