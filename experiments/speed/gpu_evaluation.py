"""Evaluation on noise, both ways: every episode embedded, and each image embedded once.

Images and labels are made up in memory, so what is timed is loading of test views (resizing),
prefetching, embedding, and comparing, without decoding. Both ways score the same episodes with the
same head; `differing` says how many pixels they count differently. Both need grain.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from apanet_jax.data.episodes import Episode
from apanet_jax.models.network import Network
from apanet_jax.runtime.devices import data_mesh, replicated
from apanet_jax.runtime.programs import Programs
from experiments.harness import Row

CLASSES = 4


@dataclasses.dataclass(frozen=True)
class NoiseSplit:
    """Images of noise that look like a split of records; each shows one class in a rectangle.

    Attributes:
      count: how many.
      side: of an image, in pixels.
      classes: how many; images show them in turn.
    """

    count: int
    side: int
    classes: int = CLASSES

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        return np.full((self.count, 2), self.side)

    @functools.cached_property
    def areas(self) -> np.ndarray:
        labels = map(self.label, range(self.count))
        return np.stack([np.bincount(x.ravel(), minlength=self.classes + 1) for x in labels])

    def label(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([index, 1])
        label = np.zeros((self.side, self.side), np.uint8)
        top, left = rng.integers(0, self.side // 2, 2)
        height, width = rng.integers(self.side // 8, self.side // 2, 2)
        label[top : top + height, left : left + width] = 1 + index % self.classes
        return label

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (self.side, self.side, 3), np.uint8)
        return {"image": image, "label": self.label(index)}


def episode(count: int, shots: int, number: int) -> Episode:
    """Returns an episode of images of one class, which every fourth one shows."""
    rng = np.random.default_rng(number)
    query = number % count
    others = [i for i in range(query % CLASSES, count, CLASSES) if i != query]
    supports = rng.choice(others, shots, replace=False)
    return Episode(query, 1 + query % CLASSES, tuple(map(int, supports)))


def rows(
    network: Network, head: Any, backbone: Any, *, images: int, side: int, episodes: int, batch: int
) -> Iterator[Row]:
    """Times both ways at 1 and 5 shots; a row each, after a first run that compiles."""
    from apanet_jax.data.loader import batches, load_evaluation_episode
    from apanet_jax.evaluation.comparing import Head
    from apanet_jax.evaluation.embed_once import EmbeddedImages, count_episodes_once
    from apanet_jax.evaluation.embedding import Embedder, Images
    from apanet_jax.evaluation.feature_store import FeatureStore
    from apanet_jax.evaluation.plan import Job
    from apanet_jax.evaluation.protocol import ONE_STEP, count_episodes, make_count

    split, mesh, programs = NoiseSplit(images, side), data_mesh(1), Programs()
    head, backbone = jax.device_put((head, backbone), replicated(mesh))
    on_device = jax.default_backend() != "cpu"

    def each(shots, stored):
        draw = functools.partial(episode, images, shots)
        load = functools.partial(load_evaluation_episode, split, draw, side, side)
        count = make_count(network, head, backbone, mesh, programs, ONE_STEP, stored)
        with batches(load, count=episodes, batch_size=batch) as loaded:
            return count_episodes(count, loaded, episodes=episodes)[0], {}

    def once(shots, stored):
        source = Images(split, side, 8, 0)
        embedder = Embedder(
            network, backbone, mesh, source, batch_size=batch, stored=stored, programs=programs
        )
        store = FeatureStore(
            device_bytes=30e9 * on_device,
            memory_bytes=8e9,
            disk_bytes=0,
            directory=Path(tempfile.gettempdir()),
        )
        features = EmbeddedImages(embedder, store, mesh, programs)
        draw = functools.partial(episode, images, shots)
        plan, needs = features.plan([Job(n, draw(n)) for n in range(episodes)])
        counts = count_episodes_once(
            features,
            plan,
            [Head(network.head, head)],
            split,
            episodes=episodes,
            label_side=side,
            programs=programs,
            resizing=ONE_STEP,
        )
        return counts[0], {"passes": needs.passes, "bytes": list(needs.bytes)}

    for shots in (1, 5):
        for stored in ("computed", "bfloat16"):
            found = {}
            for name, way in (("every episode", each), ("embeds once", once)):
                way(shots, stored)
                start = time.perf_counter()
                counts, more = way(shots, stored)
                seconds = time.perf_counter() - start
                found[name] = counts
                yield {
                    "path": name,
                    "shots": shots,
                    "stored": stored,
                    "episodes": episodes,
                    "images": images,
                    "side": side,
                    "episodes_per_second": episodes / seconds,
                    "seconds": seconds,
                    "differing": _differing(counts, found["every episode"]),
                    "pixels": int(np.sum(counts.union)),
                } | more


def _differing(first, second) -> int:
    pairs = zip(first, second, strict=True)
    return int(sum(np.abs(np.asarray(a).astype(int) - np.asarray(b)).sum() for a, b in pairs))
