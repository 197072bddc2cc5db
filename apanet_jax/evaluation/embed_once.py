"""Evaluation that embeds once: the counts of the straightforward path, at a fraction of its work.

A fold's test images are few and its backbone is frozen, yet thousands of episodes would each
embed a query and its supports again. Here all episodes are planned first (`evaluation.plan`). Each
image passes the backbone once where the budgets hold all features, each support's last block once
for each class that it supports, and each prior mask of a query and a support is computed once, over
the support's foreground alone. What remains of an episode is the comparison. Everything but that is
the same for every head and number of shots, so they are scored together.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from apanet_jax.data.loader import batches, scoring_label
from apanet_jax.data.records.reading import RecordSplit
from apanet_jax.evaluation.comparing import Head, compiled_head, compiled_pairs, names_of_pairs
from apanet_jax.evaluation.device_rows import Row
from apanet_jax.evaluation.embedding import (
    Embedder,
    estimated_positions,
    lengthened,
    query_bytes,
    support_bytes,
)
from apanet_jax.evaluation.feature_store import BEYOND, DEVICE, DISK, FeatureStore
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.evaluation.plan import Job, Needs, Plan, Sizes, Window, needs
from apanet_jax.evaluation.protocol import Resizing
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.programs import Programs


class EmbeddedImages:
    """Features of test images for any head; each image is embedded when it is first asked for.

    Attributes:
      embedder: makes them.
      store: holds them.
    """

    def __init__(self, embedder: Embedder, store: FeatureStore, mesh: Mesh, programs: Programs):
        """Embeds nothing yet."""
        self.embedder, self.store, self.mesh = embedder, store, mesh
        self.pairs = programs(compiled_pairs, embedder.head, mesh)
        self._of_query, self._of_support, self._positions = embedder.shapes()

    def plan(self, jobs: Sequence[Job]) -> tuple[Plan, Needs]:
        """Returns the order of episodes and what it takes; embeds nothing."""
        images = self.embedder.images
        areas = {}

        def support(image: int, class_id: int) -> float:
            key = image, class_id
            if key not in areas:
                count = estimated_positions(images.split, image, class_id, self._positions)
                areas[key] = support_bytes(self._of_support, min(count, self._positions))
            return areas[key]

        # What lies on disk already is not copied to it.
        places = DEVICE + 1 if images.kept is not None else BEYOND
        sizes = Sizes(query_bytes(self._of_query), support, places)
        plan = Plan(jobs, sizes, self.store.room, self.embedder.rows.batch_size)
        return plan, needs(plan, sizes, self.store.simulated())

    def put_query(self, image: int, row: Row) -> None:
        """Keeps an image's row, if there is room."""
        places = DEVICE + 1 if self.embedder.images.kept is not None else BEYOND
        self.store.put(("query", image), row, places=places)

    def embed(self, supports: Mapping[int, Sequence[int]], also_queries: Sequence[int]) -> None:
        """Embeds supports and keeps them, and some images as queries too; see `plan.Worker`."""
        if not supports:
            return
        with _progress(len(supports), "image", "embedding") as progress:
            images = set()
            for kind, key, row in self.embedder.supports(supports, also_queries):
                if kind == "query":
                    self.put_query(*key, row)
                else:
                    self.store.put((kind, *key), row, required=True)
                progress.update(key[0] not in images)
                images.add(key[0])

    def compare(self, window: Window, missing: Sequence[int], present: Sequence[int]) -> None:
        """Embeds the queries that are missing, and keeps those that there is room for."""
        for image, row, _ in self.embedder.queries(missing):
            self.put_query(image, self.embedder.query(row))


class Scoring:
    """Carries out a plan: embeds what is missing, and counts every episode's pixels."""

    def __init__(
        self,
        features: EmbeddedImages,
        heads: Sequence[Head],
        split: RecordSplit,
        *,
        label_side: int,
        programs: Programs,
        resizing: Resizing,
        keep_pairs: bool,
        progress: tqdm,
    ):
        """Has scored nothing.

        Args:
          features: of the images.
          heads: all with the same network.
          split: the images, for their labels.
          label_side: side of the square that original labels are put into.
          programs: compiled functions.
          resizing: see `protocol.score`.
          keep_pairs: whether prior masks are worth keeping.
          progress: is told of every episode.
        """
        self._features, self._heads, self._split = features, heads, split
        self._rows, self._side = features.embedder.rows, label_side
        self._keep_pairs, self._progress = keep_pairs, progress
        self._head = heads[0].head.for_inference
        self._pool, self._encode, self._compare = programs(
            compiled_head, self._head, features.mesh, resizing
        )
        self._prototypes: dict[tuple[int, int], list[np.ndarray]] = {}
        self._started: list[tuple[int, list[int | None], EpisodeCounts]] = []
        self.found: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in heads]

    def embed(self, supports: Mapping[int, Sequence[int]], also_queries: Sequence[int]) -> None:
        """Embeds supports; see `plan.Worker`."""
        self._features.embed(supports, also_queries)

    def compare(self, window: Window, missing: Sequence[int], present: Sequence[int]) -> None:
        """Scores a window's episodes; see `plan.Worker`."""
        self._pool_all(sorted(window.supports - self._prototypes.keys()))
        store = self._features.store
        missing, present = list(missing), self._at_home(present)
        rows = itertools.chain(
            (
                (image, self._features.embedder.query(row), True)
                for image, row, _ in self._features.embedder.queries(missing)
            ),
            ((image, store.get(("query", image)), False) for image in present),
        )
        count = self._rows.batch_size
        chunks = [missing[i : i + count] for i in range(0, len(missing), count)]
        chunks += [present[i : i + count] for i in range(0, len(present), count)]
        with self._labels([image for chunk in chunks for image in self._filled(chunk)]) as labels:
            for chunk, label in zip(chunks, labels, strict=True):
                taken = list(itertools.islice(rows, len(chunk)))
                for image, row, new in taken:
                    if new:
                        self._features.put_query(image, row)
                self._chunk(window, chunk, self._filled([row for _, row, _ in taken]), label)
        self._fetch(0)

    def _filled(self, items: Sequence[Any]) -> list[Any]:
        return [*items, *[items[-1]] * (self._rows.batch_size - len(items))]

    def _at_home(self, present: Sequence[int]) -> list[int]:
        """Orders queries so that each is compared on the device that it lies on, if it can be."""
        queues: list[list[int]] = [[] for _ in range(self._rows.devices)]
        anywhere = []
        for image in present:
            home = self._rows.home(self._features.store.get(("query", image)))
            (anywhere if home is None else queues[home]).append(image)
        if self._rows.devices == 1:
            return list(present)
        ordered = []
        for start in range(0, len(present), self._rows.batch_size):
            for row in range(min(self._rows.batch_size, len(present) - start)):
                own = queues[self._rows.device(row)]
                ordered.append((own or anywhere or max(queues, key=len)).pop(0))
        return ordered

    def _labels(self, images: Sequence[int]):
        def load(place: int):
            return scoring_label(self._split.label(images[place]), self._side)

        return batches(load, count=len(images), batch_size=self._rows.batch_size)

    def _pool_all(self, keys: Sequence[tuple[int, int]]) -> None:
        """Computes every head's prototypes of supports, the largest foregrounds first."""
        store, count = self._features.store, self._rows.batch_size
        ordered = sorted(keys, key=lambda key: -store.size_of(("support", *key)))
        waiting: list[tuple] = []
        for start in range(0, len(ordered), count):
            chosen = self._filled(ordered[start : start + count])
            rows = [store.get(("support", *key)) for key in chosen]
            rows = _alike([{name: row[name] for name in ("middle", "parts")} for row in rows])
            batch = self._rows.stacked(rows)
            waiting.append((chosen, [self._pool(head.parameters, batch) for head in self._heads]))
            # The device works on this batch while the prototypes of the one before are fetched.
            if len(waiting) > 1:
                self._take(*waiting.pop(0))
        for batch in waiting:
            self._take(*batch)

    def _take(self, keys: Sequence[tuple[int, int]], pooled: Sequence[jax.Array]) -> None:
        arrays = [np.asarray(array) for array in pooled]
        for place, key in enumerate(keys):
            self._prototypes[key] = [array[place] for array in arrays]

    def _chunk(self, window: Window, images: Sequence[int], rows: Sequence[Row], label) -> None:
        """Scores the episodes of as many queries as make a batch."""
        own: list[list[tuple[int, Job]]] = [[] for _ in range(self._rows.devices)]
        for row, image in enumerate(images):
            place = row % self._rows.each
            own[self._rows.device(row)] += [(place, job) for job in window.jobs[image]]
        pairs = self._pairs(own, images, rows)
        label = self._rows.spread((label["original_label"], label["original_side"]))
        middle = self._rows.stacked([{"middle": row["middle"]} for row in rows])
        encoded = [self._encode(head.parameters, middle) for head in self._heads]
        shots = sorted({len(job.episode.supports) for queue in own for _, job in queue})
        for shot in shots:
            queues = [[x for x in q if len(x[1].episode.supports) == shot] for q in own]
            for batch in _in_batches(queues, self._rows.each):
                self._score(batch, pairs, encoded, label)
        self._fetch(2 * len(self._heads))

    def _score(self, batch, pairs, encoded, label) -> None:
        """Starts the comparison of a batch of episodes, by every head."""
        jobs = [job for (_, job), _ in batch]
        keys = [[(s, j.episode.class_id) for s in j.episode.supports] for j in jobs]
        of_pairs = tuple(
            self._rows.stacked(
                [pairs[job.episode.query, *of[k]] for job, of in zip(jobs, keys, strict=True)]
            )
            for k in range(len(keys[0]))
        )
        places = np.array([place for (place, _), _ in batch], np.int32)
        classes = np.array([job.episode.class_id for job in jobs], np.int32)
        numbers = [job.number if real else None for (_, job), real in batch]
        for h, head in enumerate(self._heads):
            prototypes = np.stack([np.stack([self._prototypes[k][h] for k in of]) for of in keys])
            given = self._rows.spread((places, classes, prototypes))
            counts = self._compare(head.parameters, encoded[h], *label, *given, of_pairs)
            self._started.append((h, numbers, counts))

    def _fetch(self, left: int) -> None:
        """Fetches counts, but for those of the last batches, which devices may still work on."""
        while len(self._started) > left:
            head, numbers, counts = self._started.pop(0)
            intersection, union = map(np.asarray, counts)
            for row, number in enumerate(numbers):
                if number is not None:
                    self.found[head][number] = intersection[row], union[row]
                    self._progress.update()

    def _pairs(
        self, own: Sequence[Sequence[tuple[int, Job]]], images, rows: Sequence[Row]
    ) -> dict[tuple[int, int, int], Row]:
        """Returns the prior masks, and allocations, of all pairs of a query and a support."""
        of_query, of_support = names_of_pairs(self._head)
        store, found = self._features.store, {}
        queues: list[list[tuple]] = [[] for _ in own]
        for device, queue in enumerate(own):
            wanted = {
                (place, job.episode.query, support, job.episode.class_id): None
                for place, job in queue
                for support in job.episode.supports
            }
            for place, *pair in wanted:
                key = ("pair", *pair)
                if not of_query:
                    height, width = rows[0]["middle"].shape[1:3]
                    found[tuple(pair)] = {"prior": np.zeros((1, height, width, 0), np.float32)}
                elif key in store:
                    found[tuple(pair)] = store.get(key)
                else:
                    support = store.get(("support", *pair[1:]))
                    support = {name: support[name] for name in sorted(of_support)}
                    queues[device].append((place, tuple(pair), support))
        if not any(queues):
            return found
        for queue in queues:
            queue.sort(key=lambda item: -_positions(item[2]))
        queries = self._rows.stacked([{n: row[n] for n in sorted(of_query)} for row in rows])
        for batch in _in_batches(queues, self._rows.each):
            supports = self._rows.stacked(_alike([support for (_, _, support), _ in batch]))
            places = np.array([place for (place, _, _), _ in batch], np.int32)
            made = self._features.pairs(queries, self._rows.spread(places), supports)
            for ((_, pair, _), real), row in zip(batch, self._rows.split(made), strict=True):
                if real:
                    if "prior" not in row:
                        height, width = row["allocation"].shape[1:3]
                        row["prior"] = np.zeros((1, height, width, 0), np.float32)
                    found[pair] = row
                    if self._keep_pairs:
                        store.put(("pair", *pair), row, places=DISK)
        return found


def _positions(support: Row) -> int:
    return max((x.shape[1] for n, x in support.items() if n in ("middle", "high")), default=0)


def _alike(rows: Sequence[Row]) -> list[Row]:
    """Fills all supports up to the positions of the largest."""
    most = max(map(_positions, rows))
    return [lengthened(row, most) for row in rows]


def _in_batches(queues: Sequence[Sequence[tuple]], each: int) -> Iterator[list[tuple]]:
    """Yields batches with `each` items of every device's queue, filled up where it is empty.

    An item is followed by whether it is one, and not there to fill up.
    """
    some = next((queue[0] for queue in queues if queue), None)
    most = max((len(queue) for queue in queues), default=0)
    for start in range(0, most, each):
        batch = []
        for queue in queues:
            own = queue[start : start + each]
            filler = own[-1] if own else some
            batch += [(item, True) for item in own]
            batch += [(filler, False)] * (each - len(own))
        yield batch


def count_episodes_once(
    features: EmbeddedImages,
    plan: Plan,
    heads: Sequence[Head],
    split: RecordSplit,
    *,
    episodes: int,
    label_side: int,
    programs: Programs,
    resizing: Resizing,
    description: str = "evaluating",
) -> list[EpisodeCounts]:
    """Returns every head's counts of the planned episodes, in the order of their numbers.

    Args:
      features: of the images; what is missing is embedded.
      plan: of the episodes.
      heads: all with the same network.
      split: the images, for their labels.
      episodes: how many there are.
      label_side: side of the square that original labels are put into.
      programs: compiled functions.
      resizing: see `protocol.score`.
      description: what the progress bar says.
    """
    placed = [
        Head(head, jax.device_put(parameters, replicated(features.mesh)))
        for head, parameters in heads
    ]
    with _progress(episodes * len(heads), "episode", description) as progress:
        scoring = Scoring(
            features,
            placed,
            split,
            label_side=label_side,
            programs=programs,
            resizing=resizing,
            keep_pairs=len(plan.windows) == 1,
            progress=progress,
        )
        plan.carry_out(features.store, scoring)
    return [
        EpisodeCounts(*(np.stack([of_head[n][i] for n in range(episodes)]) for i in range(2)))
        for of_head in scoring.found
    ]


def _progress(total: int, unit: str, description: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc=description, leave=False, disable=None)
