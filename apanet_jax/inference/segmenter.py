"""Finds classes in new images, given a few images with masks: an estimator as in scikit-learn.

segmenter = apanet_jax.load()
segmenter.fit(images, masks)
found = segmenter.predict(new_images)
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from apanet_jax.inference.answer import Answer
from apanet_jax.inference.bundled import open_matcher
from apanet_jax.inference.geometry import Grid, label_shares, upsample
from apanet_jax.inference.head_choice import AUTO, HeadChoice
from apanet_jax.inference.inputs import Image, as_image, several, support_label
from apanet_jax.inference.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.presence import Decision, likeness, peak, support_appearance
from apanet_jax.inference.scales import Scales, SupportView
from apanet_jax.inference.tiles import (
    at_positions,
    cut,
    enlarged,
    fitted_square,
    fused,
    joined,
    tiles_of,
)
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.runtime.errors import UserError

_SMALLEST_SIZE = 65
_MOST_CLASSES = 254


def load(
    source: str | os.PathLike | None = None,
    *,
    head: HeadChoice = AUTO,
    size: int | None = None,
    trained: bool = True,
) -> "Segmenter":
    """Returns a segmenter that waits for its supports.

    Args:
      source: workdir of a run that trained a head, or a folder that `apanet_jax.export` wrote.
        None: what comes with the package, see `head`.
      head: which of those that come with the package, see `head_choice.HEADS`.
      size: longer side at which images are looked at, in pixels: above the network's own one in
        tiles, and as a whole besides, see `scales`. None: the network's own one, and for large
        images in tiles besides. The network's own one is what the head's decision.json says, else
        what it was trained at; without a head 518 for DINOv2-S, 385 for the small one.
      trained: whether to use a head at all. False: frozen features alone, see `rules`.

    Raises:
      UserError: there is no such head, the weights are not installed, or two choices exclude each
        other.
    """
    if size is not None and size < _SMALLEST_SIZE:
        raise UserError(f"size {size}: expected at least {_SMALLEST_SIZE} pixels")
    name, matcher = open_matcher(source and Path(source), head, size, trained=trained)
    return Segmenter(matcher, head=name, size=size)


class Segmenter:
    """Finds classes that a few supports show.

    Attributes:
      matcher: how images are compared with supports.
      options: which pixels the masks mark; may be set at any time.
      head: the name of the head or the features that the matcher uses, as `load` chose it.
      classes_: names of the classes, in the order in which they first came; [""] where the
        supports were given without.
      decisions_: thresholds of each class.
      scales: at which sizes images are looked at.
    """

    def __init__(
        self,
        matcher: Matcher,
        options: MaskOptions = DEFAULT_OPTIONS,
        *,
        head: str = "",
        size: int | None = None,
    ):
        """Makes a segmenter that has no supports yet; see `load`."""
        self.matcher, self.options, self.head = matcher, options, head
        self.scales = Scales(matcher.grid, size)
        self.classes_: list[str] = []
        self.decisions_: list[Decision] = []

    def fit(
        self,
        images: Iterable[Image],
        masks: Iterable[Any],
        classes: Iterable[str] | None = None,
    ) -> "Segmenter":
        """Learns from supports.

        Several masks of one image and class are joined: a pixel is foreground if it is in any.

        Args:
          images: arrays `[H, W, 3]` or `[H, W]` of uint8, PIL images, or files.
          masks: an array `[H, W]` for each: true, 1 or 255 where the class is, 0 elsewhere (255
            beside 1 is ignored); or a PIL image of such values; or a file, see `masks.read_mask`.
          classes: the name of each support's class; None: they all show the same.

        Returns:
          itself.

        Raises:
          UserError: something cannot be used; nothing has been learned then.
        """
        images = list(several(images, "images", of_one=3))
        masks = list(several(masks, "masks", of_one=2))
        names = [""] * len(images) if classes is None else _class_names(classes)
        if not images:
            raise UserError("no support: give at least one image with a mask")
        if not len(images) == len(masks) == len(names):
            raise UserError(
                f"{len(images)} support images, {len(masks)} masks and {len(names)} classes: "
                "expected the same number of each"
            )
        supports = self._views(zip(images, masks, names, strict=True))
        if len(supports) > _MOST_CLASSES:
            raise UserError(f"{len(supports)} classes: a label map holds {_MOST_CLASSES} at most")
        embedded: dict[bytes, Any] = {}
        learned, appearances, decisions, zooms = [], [], [], []
        for of_class in supports.values():
            chosen = [self.scales.support(x) for x in of_class]
            labels, keys = [x.label for x in chosen], [x.square.tobytes() for x in chosen]
            for key, support in zip(keys, chosen, strict=True):
                if key not in embedded:
                    embedded[key] = self.matcher.embed(support.square)
            features = [embedded[x] for x in keys]
            zooms.append(float(np.median([x.zoom for x in chosen])))
            learned.append(self.matcher.learn(features, labels))
            shares = zip(*(label_shares(x, self.matcher.grid) for x in labels), strict=True)
            of_features = [self.matcher.appearance(x) for x in features]
            appearances.append(support_appearance(of_features, *shares))
            decisions.append(self.matcher.decision(learned[-1]))
        self._learned, self._appearances = learned, appearances
        self.scales = self.scales._replace(zoom=max(zooms))
        self.classes_, self.decisions_ = list(supports), decisions
        return self

    def answers(self, images: Iterable[Image]) -> Iterator[Answer]:
        """Yields what is found in each image, one after the other, in the memory of one.

        Raises:
          UserError: `fit` was not called, or an image cannot be used.
        """
        if not self.classes_:
            raise UserError("the segmenter has no supports yet: call fit first")
        images = several(images, "images", of_one=3)
        return (self._answer(x, f"image {n}") for n, x in enumerate(images, 1))

    def predict(self, images: Iterable[Image]) -> list[np.ndarray]:
        """Returns where the class is in each image, at the image's size.

        Returns:
          A mask `[H, W]` of bool for each, whether the class was found or not; where the supports
          were given with classes, a label map `[H, W]` of uint8 of the classes that were found (0:
          none, 1: the first of `classes_`, …).
        """
        answers = self.answers(images)
        if self.classes_ == [""]:
            return [answer.mask(0) for answer in answers]
        return [answer.labels() for answer in answers]

    def predict_margins(self, images: Iterable[Image]) -> list[Float[np.ndarray, "classes h w"]]:
        """Returns by how much each pixel is above each class's threshold, whether found or not."""
        indices = range(len(self.classes_))
        return [np.stack([x.margin(i) for i in indices]) for x in self.answers(images)]

    def scores(self, images: Iterable[Image]) -> Float[np.ndarray, "images classes"]:
        """Returns the probability that each image shows each class: see `Answer`."""
        scores = [answer.scores for answer in self.answers(images)]
        return np.array(scores).reshape(-1, len(self.classes_))

    @property
    def has_clusters(self) -> bool:
        """Whether there are `clusters`: they are those of a head's features."""
        return hasattr(self.matcher, "high")

    def clusters(self, given: Image, number: int = 3) -> Int[np.ndarray, "height width"]:
        """Returns the cluster of each pixel, from 0 on: which parts of an image are alike.

        Cosine k-means of the high-level features, as the class-agnostic branch has it in training.

        Args:
          given: the image.
          number: of clusters.

        Raises:
          UserError: the image cannot be used, or the matcher is no head.
        """
        if not self.has_clusters:
            raise UserError("clusters are those of a head's features: load one, not trained=False")
        image, grid = as_image(given, "the image").image, self.matcher.grid
        features, size = self.matcher.embed(fitted_square(image, grid)), image.shape[:2]
        high = self.matcher.high(features)
        rows, columns = grid.inside(size)
        inside = np.zeros(high.shape[:2], np.float32)
        inside[:rows, :columns] = 1
        flat = high.reshape(-1, high.shape[-1])
        found = kmeans(flat, number, weights=inside.reshape(-1), key=jax.random.key(0)).assignment
        clusters = np.asarray(found).reshape(inside.shape)[:rows, :columns]
        return np.argmax([upsample(clusters == k, size, grid) for k in range(number)], 0)

    def _views(self, supports: Iterable[tuple[Image, Any, str]]) -> dict[str, list[SupportView]]:
        """Returns each class's supports; masks of one image are joined."""
        found: dict[str, dict[bytes, SupportView]] = {}
        for number, (given, mask, name) in enumerate(supports, 1):
            what = str(given) if isinstance(given, str | os.PathLike) else f"support {number}"
            image = as_image(given, what)
            label = support_label(mask, image, what, name or None)
            view = self.scales.view(image.image, label)
            of_class, key = found.setdefault(name, {}), view.square.tobytes()
            if key in of_class:
                if of_class[key].has_label_of(view):
                    raise UserError(f"{what} is given twice{f' for {name}' if name else ''}")
                view = of_class[key].joined_with(view)
            of_class[key] = view
        return {name: list(of_class.values()) for name, of_class in found.items()}

    def _answer(self, given: Image, what: str) -> Answer:
        read = as_image(given, what, side=self.scales.most_seen)
        image, size, grid = read.image, read.size, self.matcher.grid
        margins, measures = self._seen(fitted_square(image, grid), grid.inside(size))
        side = self.scales.tiled_side(size)
        if side is not None:
            large = enlarged(grid, side)
            tiled, of_tiles = self._seen_in_tiles(image, size, large)
            whole = [at_positions(x, size, grid, large) for x in margins]
            margins = fused(whole, tiled, self.decisions_)
            measures = self._most_present([measures, *of_tiles])
            grid = large
        peaks, likenesses = measures.T
        seen = image if self.options.refine else None
        return Answer(
            margins, likenesses, self.decisions_, size, grid, self.options, seen, peaks=peaks
        )

    def _seen(
        self, square: UInt8[np.ndarray, "size size 3"], inside: tuple[int, int]
    ) -> tuple[Float[np.ndarray, "classes rows columns"], Float[np.ndarray, "classes 2"]]:
        """Returns the margins of each class in a square, and their peak and likeness.

        Args:
          square: the whole image or a tile.
          inside: rows and columns of positions that are centred on the image.
        """
        window = np.s_[: inside[0], : inside[1]]
        features = self.matcher.embed(square)
        margins = [np.asarray(self.matcher.margins(features, x))[window] for x in self._learned]
        appearance = self.matcher.appearance(features)[window]
        of_classes = zip(self._appearances, margins, self.decisions_, strict=True)
        measures = [
            (peak(x), likeness(supports, appearance, x, decision.threshold))
            for supports, x, decision in of_classes
        ]
        return np.stack(margins).astype(np.float32), np.array(measures)

    def _seen_in_tiles(
        self, image: np.ndarray, size: tuple[int, int], large: Grid
    ) -> tuple[Float[np.ndarray, "classes rows columns"], list[Float[np.ndarray, "classes 2"]]]:
        """Returns the joined margins of an image's tiles, and what `_seen` measures of each."""
        grid, (rows, columns) = self.matcher.grid, large.inside(size)
        square, tiles = fitted_square(image, large), tiles_of(size, large, grid)
        inside = min(rows, grid.positions), min(columns, grid.positions)
        seen = [self._seen(cut(square, tile, grid), inside) for tile in tiles]
        margins, measures = zip(*seen, strict=True)
        return joined(tiles, margins, (rows, columns)), list(measures)

    def _most_present(
        self, measures: Sequence[Float[np.ndarray, "classes 2"]]
    ) -> Float[np.ndarray, "classes 2"]:
        """Returns the measures of the view in which each class is most likely."""
        scores = [
            [decision.presence(*pair) for decision, pair in zip(self.decisions_, x, strict=True)]
            for x in measures
        ]
        best = np.argmax(scores, 0)
        return np.stack([measures[view][index] for index, view in enumerate(best)])


def _class_names(classes: Iterable[str]) -> list[str]:
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise UserError(
            f"classes={classes!r}: expected a list with the name of each support's class"
        )
    names = list(classes)
    for name in names:
        if not isinstance(name, str | int | np.integer) or name == "":
            raise UserError(f"the class {name!r} is no name: expected strings that are not empty")
    return names
