"""Evaluation that embeds once: the counts of the straightforward path, at a fraction of its work.

A fold's test images are few and its backbone is frozen, yet thousands of episodes would each
embed a query and its supports again. Here all episodes are planned first. Each image passes the
backbone once, each support's last block once for each class that it supports, and each prior mask
of a query and a support is computed once, over the support's foreground alone. What remains of an
episode is the comparison. Everything but that is the same for every head, number of shots, seed
and fold, so they share it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from apanet_jax.data.episodes import Episode
from apanet_jax.data.kept_features import KeptFeatures, load_kept_test_view, load_test_view
from apanet_jax.data.loader import batches, scoring_label
from apanet_jax.data.records import RecordSplit
from apanet_jax.data.transforms import binary_label
from apanet_jax.evaluation.feature_store import Arrays, FeatureStore
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.evaluation.protocol import Resizing, score
from apanet_jax.models.apanet import APANet, ImageFeatures, at_size
from apanet_jax.models.network import Network, Parameters
from apanet_jax.models.prior import contrast, contrast_prototypes, density_share, shot_prior
from apanet_jax.models.prototypes import allocation, foreground_parts, over_shots, part_means
from apanet_jax.runtime.devices import batch_sharding, replicated
from apanet_jax.runtime.programs import Programs

_FEWEST_POSITIONS = 64


class EmbeddedImages:
    """Features of test images for any head; each image is embedded when it is first asked for."""

    def __init__(
        self,
        network: Network,
        backbone_parameters: Parameters,
        mesh: Mesh,
        split: RecordSplit,
        *,
        size: int,
        multiple: int,
        batch_size: int,
        workers: int,
        store: FeatureStore,
        programs: Programs,
        kept: KeptFeatures | None = None,
    ):
        """Embeds nothing yet.

        Args:
          network: whose backbone embeds; of its head only the prior masks and the number of
            foreground prototypes matter here.
          backbone_parameters: of the backbone.
          mesh: the devices that batches are spread over.
          split: the images.
          size: side of the square that images are fitted into.
          multiple: of which an image's sides are multiples there.
          batch_size: images that pass the backbone together.
          workers: processes that load images.
          store: where features are kept.
          programs: compiled functions.
          kept: the test images' features from an earlier embedding; None: there are none.
        """
        self._network, self._parameters, self._split = network, backbone_parameters, split
        self._size, self._batch_size, self._workers = size, batch_size, workers
        self._mesh, self._multiple = mesh, multiple
        self._store = store
        self._kept = kept
        self._query: tuple[int, tuple[jax.Array, ...]] | None = None
        self._embed, self._last_block = programs(_compiled_backbone, network, mesh)

    def embed(self, episodes: Iterable[Episode]) -> None:
        """Embeds what the episodes need and is not there yet."""
        missing: dict[int, set[tuple]] = {}
        for episode in episodes:
            keys = [("image", episode.query)]
            keys += [("support", support, episode.class_id) for support in episode.supports]
            for key in keys:
                if key not in self._store:
                    missing.setdefault(key[1], set()).add(key)
        wanted = sorted(missing)
        if not wanted:
            return
        if self._kept is None:
            load = functools.partial(
                load_test_view, self._split, self._size, wanted, multiple=self._multiple
            )
        else:
            load = functools.partial(load_kept_test_view, self._kept, wanted)
        with (
            batches(
                load, count=len(wanted), batch_size=self._batch_size, workers=self._workers
            ) as loaded,
            tqdm(
                total=len(wanted), unit="image", desc="embedding", leave=False, disable=None
            ) as progress,
        ):
            first = 0
            waiting: list[tuple[int, int, np.ndarray]] = []
            for batch in loaded:
                count = int(batch["valid"].sum())
                indices = wanted[first : first + count]
                self._keep_images(indices, batch)
                for image, label in zip(indices, batch["label"], strict=False):
                    for role, _, *class_id in sorted(missing[image]):
                        if role == "support":
                            waiting.append((image, *class_id, binary_label(label, *class_id)))
                while len(waiting) >= self._batch_size:
                    self._keep_supports(waiting[: self._batch_size])
                    waiting = waiting[self._batch_size :]
                first += count
                progress.update(count)
            if waiting:
                self._keep_supports(waiting)

    def _keep_images(self, indices: Sequence[int], batch: Arrays) -> None:
        """Keeps the features of those that were not embedded for another role before."""
        if all(("image", image) in self._store for image in indices):
            return
        if self._kept is None:
            images = jax.device_put(batch["image"], batch_sharding(self._mesh))
            embedded = jax.device_get(self._embed(self._parameters, images))
            features = embedded._asdict()
        else:
            features = {name: batch.get(name) for name in ImageFeatures._fields}
        for row, image in enumerate(indices):
            if ("image", image) not in self._store:
                present = {name: x[row] for name, x in features.items() if x is not None}
                self._store.put(("image", image), present)

    def _keep_supports(self, supports: Sequence[tuple[int, int, np.ndarray]]) -> None:
        """Keeps where supports show a class, in parts, and the features there for prior masks.

        Args:
          supports: a batch of them or less, each a image, a class and the label of the two.
        """
        filled = [*supports, *[supports[-1]] * (self._batch_size - len(supports))]
        given = np.stack([label for _, _, label in filled])
        of_images = [self._store.get(("image", image)) for image, _, _ in filled]
        middle = jnp.stack([features["middle"] for features in of_images])
        head, high = self._network.head, None
        if "high" in head.priors:
            if self._network.masked_support:
                block4 = head.features_of("block4", ImageFeatures(middle, high))
                spread = jax.device_put((block4, given), batch_sharding(self._mesh))
                high = self._last_block(self._parameters, *spread)
            else:
                high = jnp.stack([features["high"] for features in of_images])
        seen = {
            name: np.asarray(head.features_of(name, ImageFeatures(middle, high)))
            for name in set(head.priors) - {"contrast", "density_ratio"}
        }
        foreground = np.asarray(at_size(given == 1, middle.shape[1:3], centred=head.centred))
        of_parts = jax.device_get(_parts(middle, foreground, head.foreground_prototypes))
        if "contrast" in head.priors:
            prototypes = np.asarray(_contrast_prototypes(middle, given, head.centred))
        if "density_ratio" in head.priors:
            shares = np.asarray(_shares(given, middle.shape[1:3], head.centred))
        for number, (image, class_id, _) in enumerate(supports):
            inside = foreground[number] > 0
            kept = {name: _padded(x[number][inside], inside.size) for name, x in seen.items()}
            if "density_ratio" in head.priors:
                kept["shares"] = shares[number]
            if "contrast" in head.priors:
                kept["contrast"] = prototypes[number]
            kept |= {name: x[number] for name, x in of_parts.items()}
            self._store.put(("support", image, class_id), kept)

    def middle(self, image: int) -> np.ndarray | jax.Array:
        """Returns a image's middle features `[h, w, c]`."""
        return self._store.get(("image", image))["middle"]

    def parts(self, support: int, class_id: int) -> np.ndarray | jax.Array:
        """Returns where a support shows the class, `[h, w, parts]`: see `foreground_parts`."""
        return self._store.get(("support", support, class_id))["parts"]

    def means(self, support: int, class_id: int) -> np.ndarray | jax.Array:
        """Returns the means of the middle features of several parts, `[parts, c]`."""
        return self._store.get(("support", support, class_id))["means"]

    def prior(self, query: int, support: int, class_id: int) -> np.ndarray | jax.Array:
        """Returns the prior masks `[h, w, p]` of a query by one support.

        They are kept where memory has room for them, for other heads and shots; else made again.
        """
        head = self._network.head
        size = self.parts(support, class_id).shape[:2]
        if not head.priors:
            return np.zeros((*size, 0), np.float32)
        key = "prior", query, support, class_id
        if key in self._store:
            return self._store.get(key)["prior"]
        of_support = self._store.get(("support", support, class_id))
        prior = _pair_prior(
            self._of_query(query),
            tuple(self._of_support(name, support, of_support) for name in head.priors),
            size,
            names=head.priors,
            stretch=head.stretch_prior,
            bandwidth=head.bandwidth,
        )
        self._store.offer(key, {"prior": prior})
        return prior

    def _of_support(self, name: str, support: int, kept: Mapping[str, Any]) -> Any:
        """Returns what a prior mask compares of a support; see `_pair_prior`."""
        if name != "density_ratio":
            return kept[name]
        features = ImageFeatures(jnp.asarray(self.middle(support)), None)
        return self._network.head.features_of(name, features), kept["shares"]

    def _of_query(self, query: int) -> tuple[jax.Array, ...]:
        """Returns the features that prior masks compare, once for a query's run of episodes."""
        if self._query is None or self._query[0] != query:
            kept = self._store.get(("image", query))
            features = ImageFeatures(jnp.asarray(kept["middle"]), kept.get("high"))
            head = self._network.head
            wanted = (jnp.asarray(head.features_of(name, features)) for name in head.priors)
            self._query = query, tuple(wanted)
        return self._query[1]


def count_episodes_once(
    features: EmbeddedImages,
    network: Network,
    parameters: Parameters,
    mesh: Mesh,
    split: RecordSplit,
    episodes: Sequence[Episode],
    *,
    label_side: int,
    batch_size: int,
    programs: Programs,
    resizing: Resizing,
    description: str = "evaluating",
) -> tuple[EpisodeCounts, np.ndarray]:
    """Returns the counts and the class of every episode, in their order.

    Args:
      features: which have embedded the episodes.
      network: whose head is evaluated.
      parameters: of the head.
      mesh: the devices that batches are spread over.
      split: the images, for their labels.
      episodes: all with the same number of supports.
      label_side: side of the square that original labels are put into.
      batch_size: episodes that are compared together.
      programs: compiled functions.
      resizing: see `protocol.score`.
      description: what the progress bar says.
    """
    inference = network.head.for_inference
    head = _Head(inference, parameters, features, mesh, programs)
    compare = programs(_compiled_comparison, inference, mesh, resizing)
    # By class and query, so that what was just used is used again.
    order = sorted(range(len(episodes)), key=lambda i: (episodes[i].class_id, episodes[i].query))
    found: list[Any] = []
    with tqdm(
        total=len(order), unit="episode", desc=description, leave=False, disable=None
    ) as progress:
        for start in range(0, len(order), batch_size):
            chunk = [episodes[i] for i in order[start : start + batch_size]]
            filled = chunk + chunk[-1:] * (batch_size - len(chunk))
            inputs = [head.inputs(episode) for episode in filled]
            labels = [_label(split, e.query, e.class_id, label_side) for e in filled]
            arrays = (
                jax.tree.map(lambda *x: jnp.concatenate(x), *inputs),
                np.stack([label["original_label"] for label in labels]),
                np.stack([label["original_side"] for label in labels]),
            )
            counts = compare(parameters, *jax.device_put(arrays, batch_sharding(mesh)))
            found.append((counts, len(chunk)))
            progress.update(len(chunk))
    ordered = [
        np.concatenate([np.asarray(getattr(counts, name))[:n] for counts, n in found])
        for name in EpisodeCounts._fields
    ]
    back = np.argsort(order)
    class_id = np.array([episode.class_id for episode in episodes], np.int32)
    return EpisodeCounts(*(array[back] for array in ordered)), class_id


class _Head:
    """One head's view of queries and supports, each computed once."""

    def __init__(
        self,
        head: APANet,
        parameters: Parameters,
        features: EmbeddedImages,
        mesh: Mesh,
        programs: Programs,
    ):
        self._features, self._parameters = features, parameters
        self._place = functools.partial(jax.device_put, device=replicated(mesh))
        self._several = head.foreground_prototypes > 1
        self._encode, self._pool = programs(_compiled_parts, head)
        self._encoded: tuple[int, Any] | None = None
        self._prototypes: dict[tuple[int, int], np.ndarray] = {}

    def inputs(self, episode: Episode) -> tuple[Any, jax.Array, jax.Array, jax.Array | None]:
        """Returns what `APANet.compare` is given of an episode, as a batch of one."""
        query, supports, class_id = episode.query, episode.supports, episode.class_id
        if self._encoded is None or self._encoded[0] != query:
            middle = self._place(self._features.middle(query))
            self._encoded = query, self._encode(self._parameters, middle)
        prototypes = [self._of_support(support, class_id) for support in supports]
        priors = [self._features.prior(query, support, class_id) for support in supports]
        allocations = None
        if self._several:
            means = [self._features.means(support, class_id) for support in supports]
            given = self._place((self._features.middle(query), means))
            allocations = _allocations(*given)
        return self._encoded[1], *_over_shots(prototypes, priors, allocations)

    def _of_support(self, support: int, class_id: int) -> jax.Array:
        key = support, class_id
        if key not in self._prototypes:
            middle = self._features.middle(support)
            parts = self._features.parts(support, class_id)
            given = self._place((middle, parts))
            self._prototypes[key] = self._pool(self._parameters, *given)
        return self._prototypes[key]


@jax.jit
def _allocations(middle, means):
    return allocation(middle[None], jnp.stack(means))[None]


@jax.jit
def _over_shots(prototypes, priors, allocations):
    prototypes, assignment = over_shots(jnp.stack(prototypes)[None], allocations)
    return prototypes, jnp.stack(priors).mean(0)[None], assignment


def _compiled_backbone(network: Network, mesh: Mesh):
    spread, whole = batch_sharding(mesh), replicated(mesh)
    return (
        jax.jit(network.embed, in_shardings=(whole, spread), out_shardings=spread),
        jax.jit(
            network.masked_last_block, in_shardings=(whole, spread, spread), out_shardings=spread
        ),
    )


def _compiled_parts(head: APANet):
    def encode(parameters, middle):
        return head.apply({"params": parameters}, middle[None], method="encode_query")

    def pool(parameters, middle, parts):
        return head.apply(
            {"params": parameters}, middle[None, None], parts[None, None], method="prototypes"
        )[0, 0]

    return jax.jit(encode), jax.jit(pool)


def _compiled_comparison(head: APANet, mesh: Mesh, resizing: Resizing):
    def compare(parameters, inputs, label, side):
        logits = head.apply({"params": parameters}, *inputs, method="compare").logits
        return score(logits[..., 1] - logits[..., 0], label, side, resizing)

    whole, spread = replicated(mesh), batch_sharding(mesh)
    return jax.jit(compare, in_shardings=(whole, *[spread] * 3), out_shardings=spread)


@functools.partial(jax.jit, static_argnames="count")
def _parts(middle, foreground, count):
    """Returns supports' parts `[n, h, w, count]`, and the means `[n, count, c]` of several."""
    parts = foreground_parts(middle, foreground, count)
    if count == 1:
        return {"parts": parts}
    return {"parts": parts, "means": part_means(middle, parts)}


@functools.partial(jax.jit, static_argnames="centred")
def _contrast_prototypes(middle, labels, centred):
    """Returns `[n, prototypes, c]` of supports' features and labels of their class."""
    count, *size, channels = middle.shape
    shares = _shares(labels, tuple(size), centred)
    return contrast_prototypes(middle.reshape(count, -1, channels), shares[:, 0], shares[:, 1])


@functools.partial(jax.jit, static_argnames=("size", "centred"))
def _shares(labels, size, centred):
    """Returns `[n, 2, positions]`: the shares of foreground and background of supports' labels."""
    of_each = [at_size(labels == x, size, centred=centred) for x in (1, 0)]
    return jnp.stack(of_each, 1).reshape(len(labels), 2, -1)


@functools.partial(jax.jit, static_argnames=("size", "names", "stretch", "bandwidth"))
def _pair_prior(query, support, size, names, stretch, bandwidth):
    """Returns the prior masks `[h, w, p]` of one query by one support.

    Args:
      query: the features that each prior mask compares, `[h, w, ...]`.
      support: the same at the support's foreground alone, `[positions, ...]`. Zeros that fill it up
        have cosine 0, which is the least a prior mask takes. For "contrast", its
        prototypes; for "density_ratio", those of the whole support, and the shares
        `[2, positions]` of foreground and background.
      size: h and w.
      names: which prior masks they are.
      stretch: see `shot_prior`.
      bandwidth: of the density ratio.
    """
    height, width = size

    def mask(name, query, support):
        positions = query.reshape(height * width, -1)
        if name == "contrast":
            return contrast(positions, support)
        if name == "density_ratio":
            features, shares = support
            features = features.reshape(shares.shape[-1], -1)
            return density_share(positions, features, shares[0], shares[1], bandwidth)
        return shot_prior(positions, support, jnp.ones(len(support)), stretch=stretch)

    maps = list(map(mask, names, query, support))
    return jnp.stack(maps, -1).reshape(height, width, len(maps))


def _padded(positions: np.ndarray, most: int) -> np.ndarray:
    """Fills up with zeros to a power of two, so that few shapes are compiled."""
    size = _FEWEST_POSITIONS
    while size < len(positions):
        size *= 2
    size = max(min(size, most), len(positions))
    return np.pad(positions, ((0, size - len(positions)), (0, 0)))


@functools.lru_cache(maxsize=16)
def _label(split: RecordSplit, query: int, class_id: int, side: int) -> Arrays:
    return scoring_label(binary_label(split.label(query), class_id), side)
