"""Features of test images: of an image as a query, and of its foreground as a support.

Everything here is the same for every head that looks at the same features. A query's features are
those that the head reads. A support's are those at its foreground alone, for it is compared and
averaged nowhere else: "middle" `[1, n, c]` with the shares "parts" `[1, n, m]` of its prototypes,
"high" `[1, n, d]` of the masked last block, and what prior masks with a background need.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt8

from apanet_jax.data.kept_features import KeptFeatures, load_kept_test_view, load_test_view
from apanet_jax.data.loader import batches
from apanet_jax.data.records.reading import RecordSplit
from apanet_jax.data.transforms import binary_label
from apanet_jax.evaluation.device_rows import Row, Rows, apart, joined, on_each
from apanet_jax.evaluation.protocol import stored_as
from apanet_jax.models.apanet import ImageFeatures
from apanet_jax.models.backbones import middle as middle_of
from apanet_jax.models.network import Network, Parameters
from apanet_jax.models.prior import contrast_prototypes
from apanet_jax.models.prototypes import foreground_parts, part_means
from apanet_jax.models.resize import at_size
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.programs import Programs

_FEWEST_POSITIONS = 64
_OF_FOREGROUND = ("middle", "parts", "high")


class Images(NamedTuple):
    """Where test images come from.

    Attributes:
      split: of the records.
      size: side of the square that images are fitted into.
      multiple: of which an image's sides are multiples there.
      workers: processes that load images.
      kept: features of an earlier embedding; None: there are none.
    """

    split: RecordSplit
    size: int
    multiple: int
    workers: int
    kept: KeptFeatures | None = None

    def load(self, images: Sequence[int]) -> functools.partial:
        """Returns the function from a place among `images` to its image, or features, and label."""
        if self.kept is not None:
            return functools.partial(load_kept_test_view, self.kept, images)
        return functools.partial(
            load_test_view, self.split, self.size, images, multiple=self.multiple
        )


class Embedder:
    """Embeds images and supports in batches of one size, spread over the devices."""

    def __init__(
        self,
        network: Network,
        parameters: Parameters,
        mesh: Mesh,
        images: Images,
        *,
        batch_size: int,
        stored: str,
        programs: Programs,
    ):
        """Compiles nothing yet.

        Args:
          network: whose backbone embeds; of its head only the prior masks and the number of
            foreground prototypes matter here.
          parameters: of the backbone.
          mesh: the devices.
          images: the test images.
          batch_size: images that pass the backbone together.
          stored: the type that features are kept in and compared by, or `protocol.AS_COMPUTED`.
          programs: compiled functions.
        """
        inference = dataclasses.replace(network, head=network.head.for_inference)
        self.head, self.images, self.rows = inference.head, images, Rows(mesh, batch_size)
        self._parameters, self._batch_size = parameters, batch_size
        self._masked = network.masked_support and "high" in self.head.priors
        self._embed = {
            high: programs(_compiled_embedding, inference, mesh, stored, high)
            for high in {"high" in self.head.priors, self._high_of_supports}
        }
        self._supports = programs(_compiled_supports, inference, mesh, stored)
        self._overflow: list[jax.Array] = []
        self._stored = stored

    @property
    def _high_of_supports(self) -> bool:
        return "high" in self.head.priors and not self._masked

    def shapes(self) -> tuple[Row, Row, int]:
        """Returns the shapes of a query's row and a support's, and the positions of an image."""
        count, size = self._batch_size, self.images.size
        if self.images.kept is None:
            batch = {"image": jax.ShapeDtypeStruct((count, size, size, 3), np.uint8)}
        else:
            view = load_kept_test_view(self.images.kept, range(1), 0)
            batch = {
                name: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
                for name, x in view.items()
                if name in ("middle", "high")
            }
        label = jax.ShapeDtypeStruct((count, size, size), np.uint8)
        whole, _ = jax.eval_shape(self._embed["high" in self.head.priors], self._parameters, batch)
        rows, _ = jax.eval_shape(self._embed[self._high_of_supports], self._parameters, batch)
        support, _ = jax.eval_shape(self._supports, self._parameters, rows, label)
        _, height, width, _ = whole[0]["middle"].shape
        return self.query(whole[0]), support[0], height * width

    def query(self, row: Row) -> Row:
        """Returns what is kept of an image's row as a query."""
        names = {"high" if name == "high" else "middle" for name in ("encoded", *self.head.priors)}
        return {name: row[name] for name in sorted(names)}

    def queries(
        self, images: Sequence[int], *, high: bool = True
    ) -> Iterator[tuple[int, Row, UInt8[np.ndarray, "size size"]]]:
        """Embeds images; yields each with its features and its label in the square.

        Args:
          images: which.
          high: whether they are queries; otherwise features that only queries have are left out.

        Raises:
          UserError: a feature is larger than the type that it is stored in can hold.
        """
        if not images:
            return
        program = self._embed[("high" in self.head.priors) and (high or not self._masked)]
        with batches(
            self.images.load(images),
            count=len(images),
            batch_size=self._batch_size,
            workers=self.images.workers,
        ) as loaded:
            first = 0
            for batch in loaded:
                given = {name: batch[name] for name in ("image", "middle", "high") if name in batch}
                parts, overflow = program(self._parameters, self.rows.spread(given))
                self._check(overflow)
                rows = self.rows.split(parts)
                taken = images[first : first + self._batch_size]
                yield from zip(taken, rows, batch["label"], strict=False)
                first += len(taken)
        self._check()

    def supports(
        self, wanted: Mapping[int, Sequence[int]], queries: Sequence[int]
    ) -> Iterator[tuple[str, tuple, Row]]:
        """Embeds supports; yields the kind "query" or "support", the images and classes, and rows.

        Args:
          wanted: images and the classes that they support.
          queries: which of the images are wanted as queries too.
        """
        waiting: list[list[tuple]] = [[] for _ in range(self.rows.devices)]
        started: list[tuple] = []
        names = ["middle", *(["high"] if self._high_of_supports else [])]
        also = set(queries)
        for high, images in ((True, sorted(also)), (False, sorted(wanted.keys() - also))):
            for number, (image, row, label) in enumerate(self.queries(images, high=high)):
                if high:
                    yield "query", (image,), self.query(row)
                device = self.rows.device(number % self._batch_size)
                of_image = {name: row[name] for name in (*names, "block4") if name in row}
                for class_id in wanted[image]:
                    found = binary_label(label, class_id)
                    waiting[device].append(((image, class_id), of_image, found))
                # Some devices may have had more supports than others.
                while max(map(len, waiting)) >= 2 * self.rows.each or all(
                    len(queue) >= self.rows.each for queue in waiting
                ):
                    started.append(self._start(waiting))
                while len(started) > 1:
                    yield from self._finish(started.pop(0))
        while any(waiting):
            started.append(self._start(waiting))
        for batch in started:
            yield from self._finish(batch)

    def _start(self, waiting: list[list[tuple]]) -> tuple:
        """Computes a batch of supports; places that nothing waits for are filled up."""
        some = next(queue[0] for queue in waiting if queue)
        taken = []
        for queue in waiting:
            own = queue[: self.rows.each]
            del queue[: self.rows.each]
            taken += own + [some] * (self.rows.each - len(own))
        labels = self.rows.spread(np.stack([label for _, _, label in taken]))
        rows = self.rows.stacked([row for _, row, _ in taken])
        return [key for key, _, _ in taken], self._supports(self._parameters, rows, labels)

    def _finish(self, batch: tuple) -> Iterator[tuple[str, tuple, Row]]:
        keys, (parts, counts) = batch
        counts, seen = np.asarray(counts), set()
        for key, row, count in zip(keys, self.rows.split(parts), counts, strict=True):
            if key not in seen:
                seen.add(key)
                yield "support", key, _cut(row, int(count))

    def _check(self, overflow: jax.Array | None = None) -> None:
        """Checks the batches before this one, so that nothing waits for this one's."""
        if self._overflow and np.asarray(self._overflow.pop()).any():
            raise UserError(
                f"features are larger than {self._stored} can hold: set "
                "evaluation.stored=bfloat16, or computed"
            )
        if overflow is not None:
            self._overflow.append(overflow)


def bucket(count: float, most: int) -> int:
    """Returns to how many positions a foreground is filled up, so that few shapes are compiled."""
    size = _FEWEST_POSITIONS
    while size < count:
        size *= 2
    return min(size, most)


def _cut(row: Row, count: int) -> Row:
    """Leaves out the positions behind a support's foreground, which comes first."""
    size = bucket(count, row["middle"].shape[1])

    def shorter(array):
        if array.shape[1] == size:
            return array
        if next(iter(array.devices())).platform == "cpu":
            return np.asarray(array)[:, :size].copy()
        return jax.lax.slice_in_dim(array, 0, size, axis=1)

    return {name: shorter(x) if name in _OF_FOREGROUND else x for name, x in row.items()}


def lengthened(row: Row, size: int) -> Row:
    """Fills a support's positions up with zeros, whose cosine is 0 and whose shares are none."""

    def longer(name, array):
        missing = size - array.shape[1] if name in _OF_FOREGROUND else 0
        if not missing:
            return array
        pad = jnp.pad if isinstance(array, jax.Array) else np.pad
        return pad(array, ((0, 0), (0, missing), (0, 0)))

    return {name: longer(name, array) for name, array in row.items()}


def support_bytes(row: Row, positions: int) -> float:
    """Returns the bytes of a support whose foreground has some positions, estimated.

    Args:
      row: shapes of one whose foreground is everywhere.
      positions: of its foreground, before they are filled up.
    """
    most = row["middle"].shape[1]
    share = bucket(positions, most) / most
    return sum(_bytes(x) * (share if name in _OF_FOREGROUND else 1.0) for name, x in row.items())


def query_bytes(row: Row) -> float:
    """Returns the bytes of a query's row, of which shapes are given."""
    return sum(map(_bytes, row.values()))


def _bytes(array: Any) -> float:
    return float(np.prod(array.shape[1:])) * jnp.dtype(array.dtype).itemsize


def _compiled_embedding(network: Network, mesh: Mesh, stored: str, high: bool):
    """Returns the program from a batch to its rows, and whether a feature was too large."""
    head = network.head

    def embed(parameters, batch):
        if "middle" in batch:
            found = {"middle": batch["middle"]}
            if high:
                found["high"] = batch["high"]
        else:
            features = network.features(parameters, batch["image"])
            found = {"middle": middle_of(features)}
            if high:
                found["high"] = features.block5
        kept = {name: stored_as(stored, x) for name, x in found.items()}
        infinite = [jnp.isinf(kept[name]).any() & ~jnp.isinf(x).any() for name, x in found.items()]
        if kept["middle"].dtype != found["middle"].dtype and "high" in head.priors:
            # The masked last block continues what was computed, not what is kept.
            kept["block4"] = head.features_of("block4", ImageFeatures(found["middle"], None))
        return apart(kept), jnp.stack(infinite).any()[None]

    return on_each(mesh, embed, 1)


def _compiled_supports(network: Network, mesh: Mesh, stored: str):
    """Returns the program from rows of images and labels to rows of supports and their counts."""
    head = network.head

    def supports(parameters, rows, labels):
        images = joined(rows)
        middle = images["middle"]
        count, *size, _ = middle.shape
        foreground = at_size(labels == 1, tuple(size), centred=head.centred)
        parts = foreground_parts(middle, foreground, head.foreground_prototypes)
        found = {"middle": middle, "parts": parts}
        if "high" in head.priors:
            found["high"] = images.get("high")
            if network.masked_support:
                block4 = images.get("block4", head.features_of("block4", ImageFeatures(middle, 0)))
                found["high"] = stored_as(
                    stored, network.masked_last_block(parameters, block4, labels)
                )
        inside = foreground.reshape(count, -1) > 0
        kept = {name: _foreground_first(x, inside) for name, x in found.items()}
        if head.foreground_prototypes > 1:
            kept["means"] = part_means(middle, parts)
        if "contrast" in head.priors:
            kept["contrast"] = _contrast_prototypes(middle, labels, head.centred)
        if "density_ratio" in head.priors:
            block4 = head.features_of("density_ratio", ImageFeatures(middle, None))
            kept["block4"] = block4.reshape(count, -1, block4.shape[-1])
            kept["shares"] = _shares(labels, tuple(size), head.centred)
        return apart(kept), inside.sum(-1)

    return on_each(mesh, supports, 1)


def _foreground_first(
    x: Float[Array, "n height width channels"], inside: Bool[Array, "n positions"]
) -> Float[Array, "n positions channels"]:
    """Returns the positions of the foreground, in their order, and zeros behind them."""
    order = jnp.argsort(~inside, -1, stable=True)[..., None]
    flat = x.reshape(*inside.shape, x.shape[-1])
    flat = jnp.where(inside[..., None], flat, jnp.zeros((), x.dtype))
    return jnp.take_along_axis(flat, order, 1)


def _contrast_prototypes(middle, labels, centred):
    """Returns `[n, prototypes, c]` of supports' features and labels of their class."""
    count, *size, channels = middle.shape
    shares = _shares(labels, tuple(size), centred)
    return contrast_prototypes(middle.reshape(count, -1, channels), shares[:, 0], shares[:, 1])


def _shares(labels, size, centred):
    """Returns `[n, 2, positions]`: the shares of foreground and background of supports' labels."""
    of_each = [at_size(labels == x, size, centred=centred) for x in (1, 0)]
    return jnp.stack(of_each, 1).reshape(len(labels), 2, -1)


def estimated_positions(split: RecordSplit, image: int, class_id: int, positions: int) -> float:
    """Returns about how many of an image's positions a class has a share of, from its area."""
    share = split.areas[image, class_id] / float(split.sizes[image].max()) ** 2
    inside = share * positions
    # Those that the outline of a compact object passes through, and as many again.
    return inside + 6 * inside**0.5 + 4
