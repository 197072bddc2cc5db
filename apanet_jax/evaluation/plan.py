"""What scoring episodes takes, before anything is embedded: their order, passes, and bytes.

Where the budgets hold all features, every image is embedded once and its features stay. Otherwise
episodes go class by class in windows: an image then passes once for each class that it is listed
for, where the budgets hold a class's supports and queries, and what has no room is embedded again.
The plan of who is kept when is carried out twice: with sizes alone, for its summary, and then with
features.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from apanet_jax.data.episodes import Episode
from apanet_jax.evaluation.feature_store import BEYOND, DEVICE, DISK, MEMORY, Ledger

_ROOM_FOR_SUPPORTS = 0.95
_QUERIES_LATER = 0.5


class Job(NamedTuple):
    """An episode to score.

    Attributes:
      number: its place among all of them.
      episode: the images and the class.
    """

    number: int
    episode: Episode


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes that features take.

    Attributes:
      query: of an image as a query.
      support: estimated, of an image that supports a class.
      places: how many of a store's places hold queries, from the first on.
    """

    query: float
    support: Callable[[int, int], float]
    places: int = BEYOND


@dataclasses.dataclass(frozen=True)
class Window:
    """Episodes whose supports are held together.

    Attributes:
      jobs: the episodes of each query.
      supports: images and the classes that they support.
    """

    jobs: Mapping[int, Sequence[Job]]
    supports: frozenset[tuple[int, int]]


class Worker(Protocol):
    """Does what a plan asks for."""

    def embed(self, supports: Mapping[int, Sequence[int]], also_queries: Sequence[int]) -> None:
        """Embeds supports: images and the classes that they support.

        Args:
          supports: what is missing.
          also_queries: which of the images are kept as queries too.
        """

    def compare(self, window: Window, missing: Sequence[int], present: Sequence[int]) -> None:
        """Compares a window's queries with their supports; those that are missing come first."""


class Plan:
    """An order of episodes in windows, and when everything is needed.

    Attributes:
      windows: in their order.
    """

    def __init__(self, jobs: Iterable[Job], sizes: Sizes, room: float, least: int):
        """Plans.

        Args:
          jobs: the episodes.
          sizes: of features.
          room: bytes of all budgets.
          least: queries of a window at least, whatever the budgets.
        """
        jobs, self._sizes = list(jobs), sizes
        supports = {(s, job.episode.class_id) for job in jobs for s in job.episode.supports}
        queries = {job.episode.query for job in jobs}
        total = sum(sizes.support(*key) for key in supports)
        if sizes.places == BEYOND:
            total += sizes.query * len(queries)
        if total <= _ROOM_FOR_SUPPORTS * room:
            self.windows = [Window(_by_query(jobs), frozenset(supports))] if jobs else []
        else:
            self.windows = list(_windows(jobs, sizes, _ROOM_FOR_SUPPORTS * room, least))
        self._uses: dict[Hashable, list[int]] = {}
        for number, window in enumerate(self.windows):
            for query in window.jobs:
                self._uses.setdefault(("query", query), []).append(number)
            for key in window.supports:
                self._uses.setdefault(("support", *key), []).append(number)

    def next_use(self, key: Hashable, window: int) -> float:
        """Returns when something is needed, from a window on; infinity where it is not.

        In a window the supports are needed before the queries.
        """
        uses = self._uses.get(key, ())
        place = bisect.bisect_left(uses, window)
        later = _QUERIES_LATER if key[0] == "query" else 0
        return uses[place] + later if place < len(uses) else math.inf

    def carry_out(self, ledger: Ledger, worker: Worker) -> None:
        """Has a worker do all windows, one after the other."""
        for number, window in enumerate(self.windows):
            ledger.drop_beyond()
            ledger.begin(lambda key, number=number: self.next_use(key, number))
            missing: dict[int, list[int]] = {}
            for image, class_id in sorted(window.supports):
                if ("support", image, class_id) not in ledger:
                    missing.setdefault(image, []).append(class_id)
            worker.embed(missing, self._also_queries(ledger, missing, number))
            absent = [query for query in window.jobs if ("query", query) not in ledger]
            present = [query for query in window.jobs if ("query", query) in ledger]
            compared = {("query", query) for query in absent}
            ledger.begin(
                lambda key, number=number, compared=compared: self.next_use(
                    key, number + (key in compared)
                )
            )
            worker.compare(window, absent, present)

    def _also_queries(
        self, ledger: Ledger, missing: Mapping[int, Sequence[int]], number: int
    ) -> list[int]:
        """Returns which of the supports' images are queries soon, and fit beside the supports."""
        uses = {
            image: self.next_use(("query", image), number)
            for image in missing
            if ("query", image) not in ledger
        }
        soon = sorted((use, image) for image, use in uses.items() if use < math.inf)
        supports = sum(self._sizes.support(i, c) for i, classes in missing.items() for c in classes)
        room = ledger.available(number + _QUERIES_LATER, self._sizes.places)
        if self._sizes.places == BEYOND:
            room -= supports
        return [image for _, image in soon[: max(int(room // max(self._sizes.query, 1)), 0)]]


def _by_query(jobs: Iterable[Job]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (job.episode.query, job.episode.class_id, job.number)):
        found.setdefault(job.episode.query, []).append(job)
    return found


def _windows(jobs: Sequence[Job], sizes: Sizes, room: float, least: int) -> Iterator[Window]:
    """Yields a window for each class, or for several whose supports and queries all find room.

    A class whose supports alone find none is split by its queries, of which a window has at least
    `least`.
    """
    of_query = sizes.query if sizes.places == BEYOND else 0.0
    held: dict[int, list[Job]] = {}
    supports: set[tuple[int, int]] = set()
    for class_id, of_class in _by_class(jobs).items():
        own = {
            (support, class_id)
            for of_one in of_class.values()
            for job in of_one
            for support in job.episode.supports
        }
        together = sum(sizes.support(*key) for key in supports | own)
        if held and together + of_query * len(held.keys() | of_class.keys()) > room:
            yield Window(held, frozenset(supports))
            held, supports = {}, set()
        if sum(sizes.support(*key) for key in own) > room:
            yield from _split(class_id, of_class, sizes, room, least)
            continue
        for query, of_one in of_class.items():
            held.setdefault(query, []).extend(of_one)
        supports |= own
    if held:
        yield Window(held, frozenset(supports))


def _split(
    class_id: int, of_class: Mapping[int, Sequence[Job]], sizes: Sizes, room: float, least: int
) -> Iterator[Window]:
    """Yields windows of a class's queries, as many in each as their supports find room."""
    held: dict[int, Sequence[Job]] = {}
    supports: set[tuple[int, int]] = set()
    size = 0.0
    for query, jobs in of_class.items():
        own = {(support, class_id) for job in jobs for support in job.episode.supports}
        more = sum(sizes.support(*key) for key in own - supports)
        if len(held) >= least and size + more > room:
            yield Window(held, frozenset(supports))
            held, supports, size = {}, set(), 0.0
            more = sum(sizes.support(*key) for key in own)
        held[query] = jobs
        supports |= own
        size += more
    yield Window(held, frozenset(supports))


def _by_class(jobs: Iterable[Job]) -> dict[int, dict[int, list[Job]]]:
    """Returns the episodes of each class and query, in the order of both."""
    found: dict[int, dict[int, list[Job]]] = {}
    for job in sorted(jobs, key=lambda job: (job.episode.class_id, job.episode.query, job.number)):
        of_class = found.setdefault(job.episode.class_id, {})
        of_class.setdefault(job.episode.query, []).append(job)
    return found


class Needs(NamedTuple):
    """What a plan takes.

    Attributes:
      episodes: how many there are.
      images: different ones.
      windows: how many.
      passes: through the backbone.
      supports: masks that the last block, or the pooling, sees.
      queries_alone: images that pass for a query's sake alone.
      bytes: the most on devices, in memory, on disk, and in memory beyond the budget.
    """

    episodes: int
    images: int
    windows: int
    passes: int
    supports: int
    queries_alone: int
    bytes: tuple[float, ...]

    def lines(self, budgets: Sequence[float], every_episode: int) -> str:
        """Says it in two lines.

        Args:
          budgets: bytes that may be taken on devices, in memory and on disk.
          every_episode: passes where every episode is embedded.
        """
        kept = [self.bytes[DEVICE], self.bytes[MEMORY] + self.bytes[BEYOND], self.bytes[DISK]]
        places = ("on devices", "in memory", "on disk")
        rooms = ", ".join(
            f"{used / 1e9:.2f} of {budget / 1e9:.2f} GB {place}"
            for used, budget, place in zip(kept, budgets, places, strict=True)
            if used or budget
        )
        again = self.passes - self.images
        windows = "one window" if self.windows == 1 else f"{self.windows} windows"
        return (
            f"evaluation: {self.episodes} episodes of {self.images} images in {windows}: "
            f"{self.passes} images pass the backbone"
            + (f", {again} of them again" if again > 0 else "")
            + f" ({every_episode} without keeping features), and {self.supports} supports\n"
            f"  features kept at most: {rooms}"
        )


class _Counting:
    """Carries out a plan with sizes alone."""

    def __init__(self, ledger: Ledger, sizes: Sizes):
        self.ledger, self.sizes = ledger, sizes
        self.passes = self.supports = self.alone = 0

    def embed(self, supports: Mapping[int, Sequence[int]], also_queries: Sequence[int]) -> None:
        also = set(also_queries)
        for image, classes in supports.items():
            self.passes += 1
            if image in also:
                self.ledger.add(("query", image), self.sizes.query, places=self.sizes.places)
            for class_id in classes:
                self.supports += 1
                size = self.sizes.support(image, class_id)
                self.ledger.add(("support", image, class_id), size, required=True)

    def compare(self, window: Window, missing: Sequence[int], present: Sequence[int]) -> None:
        for query in missing:
            self.passes += 1
            self.alone += 1
            self.ledger.add(("query", query), self.sizes.query, places=self.sizes.places)


def needs(plan: Plan, sizes: Sizes, ledger: Ledger) -> Needs:
    """Returns what carrying out a plan takes.

    Args:
      plan: the order.
      sizes: of features.
      ledger: with what is held already; it is left as the plan leaves it.
    """
    worker = _Counting(ledger, sizes)
    plan.carry_out(ledger, worker)
    jobs = [job for window in plan.windows for of_query in window.jobs.values() for job in of_query]
    images = {i for job in jobs for i in (job.episode.query, *job.episode.supports)}
    return Needs(
        len(jobs),
        len(images),
        len(plan.windows),
        worker.passes,
        worker.supports,
        worker.alone,
        tuple(ledger.peak),
    )
