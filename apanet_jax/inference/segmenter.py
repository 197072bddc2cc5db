"""Finds a thing in new pictures, given a few with its mask; an estimator in scikit-learn's manner.

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
from jaxtyping import Bool, Float, Int, UInt8

from apanet_jax.data.images import UprightImage, read_image
from apanet_jax.data.mask_values import label_of_values
from apanet_jax.data.masks import read_mask
from apanet_jax.data.transforms import fit_square
from apanet_jax.inference.matchers import (
    GENERAL_HEAD,
    STRIDE,
    Matcher,
    PrototypeMatcher,
    between_cells,
    cell_shares,
    trained_matcher,
)
from apanet_jax.inference.presence import Cells, Decision, likeness, look_of, peak
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.runtime.errors import UserError

_SMALLEST_SIZE = 65
_THRESHOLDS = np.round(np.arange(-0.1, 0.16, 0.02), 2)

Image = UInt8[np.ndarray, "height width 3"]
Pictured = Image | str | os.PathLike
"""A picture: an array (RGB or gray, 0 to 255), or a file."""


def load(
    workdir: str | os.PathLike | None = None, *, size: int | None = None, trained: bool = True
) -> "Segmenter":
    """Returns a segmenter that waits for its supports.

    Args:
      workdir: of a run that trained a head, or a folder that `apanet_jax.export` wrote. None: the
        head that comes with the package, trained on drawn pictures.
      size: longer side at which pictures are looked at, in pixels. None: what the head's
        decision.json says, else what it was trained at; 385 without a head. Larger sides find
        smaller things, and take longer.
      trained: whether to use a head at all. False: the match with prototypes, which nothing
        trained.

    Raises:
      UserError: there is no such head, or the weights are not installed.
    """
    if workdir is not None and not trained:
        raise UserError(f"a head ({workdir}) and none at once: give a workdir, or trained=False")
    if size is not None and size < _SMALLEST_SIZE:
        raise UserError(f"size {size}: expected at least {_SMALLEST_SIZE} pixels")
    if not trained:
        return Segmenter(PrototypeMatcher(size) if size else PrototypeMatcher())
    return Segmenter(trained_matcher(GENERAL_HEAD if workdir is None else Path(workdir), size))


class Answer:
    """What was found in a picture, computed at its own size when it is asked for.

    Attributes:
      peaks: `[classes]`, the margin that a hundredth of the picture exceeds.
      likenesses: `[classes]`, see `presence.likeness`.
      scores: `[classes]`, how likely the picture shows each class, if half of the pictures do.
      found: `[classes]`, whether that is more likely than not.
    """

    def __init__(
        self,
        cells: Sequence[Cells],
        likenesses: Sequence[float],
        decisions: Sequence[Decision],
        size: tuple[int, int],
    ):
        """Makes an answer of the margins `[h, w]` of each class at the features' cells."""
        self._cells, self._decisions, self._size = cells, decisions, size
        self.peaks, self.likenesses = np.array([peak(x) for x in cells]), np.array(likenesses)
        signs = zip(decisions, self.peaks, self.likenesses, strict=True)
        self.scores = np.array([decision.presence(*pair) for decision, *pair in signs])
        self.found = self.scores > 0.5

    def margin(self, index: int) -> Float[np.ndarray, "height width"]:
        """Returns by how much each pixel is above the threshold of a class."""
        return self._upsampled(index) - self._decisions[index].threshold

    def mask(self, index: int) -> Bool[np.ndarray, "height width"]:
        """Returns where a class is, if it is there: `found` is a guess of its own."""
        return self.margin(index) > 0

    def probability(self, index: int) -> Float[np.ndarray, "height width"]:
        """Returns how likely each pixel is of a class, as if the class were in the picture."""
        return self._decisions[index].probability(self._upsampled(index))

    def labels(self) -> UInt8[np.ndarray, "height width"]:
        """Returns a label map: 1 + the class with the largest margin, 0 where none is above 0."""
        labels, best = np.zeros(self._size, np.uint8), np.zeros(self._size, np.float32)
        for index in range(len(self.found)):
            margin = self.margin(index)
            labels[margin > best] = index + 1
            best = np.maximum(best, margin)
        return labels

    def _upsampled(self, index: int) -> Float[np.ndarray, "height width"]:
        return upsample(self._cells[index], self._size)


class Segmenter:
    """Finds what a few supports show.

    Attributes:
      matcher: how a thing is looked for.
      classes_: names of the classes, in the order in which they first came; [""] where the
        supports were given without.
      decisions_: thresholds of each class.
    """

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self.classes_: list[str] = []
        self.decisions_: list[Decision] = []

    def fit(
        self,
        images: Sequence[Pictured],
        masks: Sequence[Any],
        classes: Sequence[str] | None = None,
    ) -> "Segmenter":
        """Learns from supports.

        Args:
          images: arrays `[H, W, 3]` or `[H, W]` of uint8, or files.
          masks: an array `[H, W]` for each: true, 1 or 255 where the thing is, 0 elsewhere (255
            beside 1 is ignored); or a file, see `masks.read_mask`.
          classes: the name of each support's class; None: they all show the same.

        Returns:
          itself.

        Raises:
          UserError: something cannot be used; nothing has been learned then.
        """
        images, masks = list(images), list(masks)
        names = [""] * len(images) if classes is None else list(classes)
        if not images:
            raise UserError("no support: give at least one picture with a mask")
        if not len(images) == len(masks) == len(names):
            raise UserError(
                f"{len(images)} support pictures, {len(masks)} masks and {len(names)} classes: "
                "expected as many of each"
            )
        order = list(dict.fromkeys(names))
        if len(order) > 254:
            raise UserError(f"{len(order)} classes: a label map holds 254 at most")
        supports = {name: [] for name in order}
        embedded: dict[Any, Any] = {}
        for number, (given, mask, name) in enumerate(zip(images, masks, names, strict=True), 1):
            what = f"support {number}" if isinstance(given, np.ndarray) else str(given)
            picture = as_picture(given, what)
            label = _support_label(mask, picture, what, name or None)
            square, square_label = fit_square(picture.image, label, self.matcher.size)
            key = square.tobytes()
            if any(key == other for other, *_ in supports[name]):
                raise UserError(f"{what} is given twice{f' for {name}' if name else ''}")
            if key not in embedded:
                embedded[key] = self.matcher.embed(square)
            supports[name].append((key, embedded[key], square_label))
        learned, looks, decisions = [], [], []
        for of_class in supports.values():
            _, features, labels = zip(*of_class, strict=True)
            learned.append(self.matcher.learn(features, labels))
            shares = zip(*map(cell_shares, labels), strict=True)
            looks.append(look_of([self.matcher.appearance(x) for x in features], *shares))
            decisions.append(decide(self.matcher, features, labels))
        self._learned, self._looks = learned, looks
        self.classes_, self.decisions_ = order, decisions
        return self

    def answers(self, images: Iterable[Pictured]) -> Iterator[Answer]:
        """Yields what is found in each picture, one after the other, in the memory of one.

        Raises:
          UserError: `fit` was not called, or a picture cannot be used.
        """
        if not self.classes_:
            raise UserError("the segmenter has no supports yet: call fit first")
        if isinstance(images, str | os.PathLike):
            raise UserError(f"expected a list of pictures, not the one path {images}")
        return (self._answer(x, f"picture {n}") for n, x in enumerate(images, 1))

    def predict(self, images: Iterable[Pictured]) -> list[np.ndarray]:
        """Returns where the thing is in each picture, at the picture's size.

        Returns:
          A mask `[H, W]` of bool for each; where the supports were given with classes, a label map
          `[H, W]` of uint8 (0: none, 1: the first of `classes_`, …).
        """
        answers = self.answers(images)
        if self.classes_ == [""]:
            return [answer.mask(0) for answer in answers]
        return [answer.labels() for answer in answers]

    def predict_margins(self, images: Iterable[Pictured]) -> list[Float[np.ndarray, "classes h w"]]:
        """Returns by how much each pixel is above each class's threshold, whether found or not."""
        indices = range(len(self.classes_))
        return [np.stack([x.margin(i) for i in indices]) for x in self.answers(images)]

    def scores(self, images: Iterable[Pictured]) -> Float[np.ndarray, "pictures classes"]:
        """Returns how likely each picture shows each class: see `Answer`."""
        scores = [answer.scores for answer in self.answers(images)]
        return np.array(scores).reshape(-1, len(self.classes_))

    @property
    def has_clusters(self) -> bool:
        """Whether there are `clusters`: they are those of a head's features."""
        return hasattr(self.matcher, "high")

    def clusters(self, given: Pictured, number: int = 3) -> Int[np.ndarray, "height width"]:
        """Returns the cluster of each pixel, from 0 on: what a picture has that is alike.

        Cosine k-means of the high-level features, as the class-agnostic branch has it in training.

        Raises:
          UserError: the picture cannot be used, or the matcher is no head.
        """
        if not self.has_clusters:
            raise UserError("clusters are those of a head's features: load one, not trained=False")
        features, size = self._embedded(given, "the picture")
        high = self.matcher.high(features)
        rows, columns = _cells_inside(size, self.matcher.size)
        inside = np.zeros(high.shape[:2], np.float32)
        inside[:rows, :columns] = 1
        flat = high.reshape(-1, high.shape[-1])
        found = kmeans(flat, number, weights=inside.reshape(-1), key=jax.random.key(0)).assignment
        cells = np.asarray(found).reshape(inside.shape)[:rows, :columns]
        return np.argmax([upsample(cells == k, size) for k in range(number)], 0)

    def _answer(self, given: Pictured, what: str) -> Answer:
        features, size = self._embedded(given, what)
        rows, columns = _cells_inside(size, self.matcher.size)
        margins = [np.asarray(self.matcher.margins(features, x)) for x in self._learned]
        inside = [x[:rows, :columns].astype(np.float32) for x in margins]
        appearance = self.matcher.appearance(features)[:rows, :columns]
        likenesses = [
            likeness(look, appearance, cells, decision.threshold)
            for look, cells, decision in zip(self._looks, inside, self.decisions_, strict=True)
        ]
        return Answer(inside, likenesses, self.decisions_, size)

    def _embedded(self, given: Pictured, what: str) -> tuple[Any, tuple[int, int]]:
        """Returns a picture's features, and its height and width."""
        image = as_picture(given, what).image
        height, width = image.shape[:2]
        square, _ = fit_square(image, np.zeros((height, width), np.uint8), self.matcher.size)
        return self.matcher.embed(square), (height, width)


def decide(matcher: Matcher, features: Sequence[Any], labels: Sequence[np.ndarray]) -> Decision:
    """Returns the thresholds of a class, adapted to its supports where there are several.

    Each support in turn is looked at with the others as its supports.

    Args:
      matcher: which has embedded them.
      features: of each support.
      labels: `[size, size]` of each, see `Matcher.learn`.
    """
    decision = matcher.decision(len(features))
    if len(features) < 2 or not matcher.adapts:
        return decision
    sums = np.zeros((len(_THRESHOLDS), 2))
    for left_out, (held, label) in enumerate(zip(features, labels, strict=True)):
        others = [i for i in range(len(features)) if i != left_out]
        learned = matcher.learn([features[i] for i in others], [labels[i] for i in others])
        margins = np.asarray(matcher.margins(held, learned))
        foreground, background = cell_shares(label)
        above = margins > _THRESHOLDS[:, None, None]
        area = foreground.sum()
        hits, false = (above * foreground).sum((1, 2)), (above * background).sum((1, 2))
        sums += np.stack([hits / area, (area + false) / area], -1)
    best = _THRESHOLDS[np.argmax(sums[:, 0] / sums[:, 1])]
    return decision._replace(threshold=float(best))


def upsample(cells: Cells, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Returns cells' values at the pixels of a picture of `size` (height, width), bilinearly.

    Cell i lies on pixel 8 i of the resized picture, which has 8 pixels a cell.
    """
    rows, columns = (_line(n, pixels) for n, pixels in zip(cells.shape, size, strict=True))
    return rows @ cells.astype(np.float32) @ columns.T


def _line(cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    centres = (np.arange(pixels) + 0.5) * (cells * STRIDE / pixels) - 0.5
    return between_cells(cells, centres / STRIDE)


def _cells_inside(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns how many rows and columns of cells a picture takes in its square: `fit_square`."""
    factor = side / max(size)
    rows, columns = (max(int(n * factor + 1e-6) // STRIDE, 1) for n in size)
    return rows, columns


def as_picture(given: Pictured, what: str) -> UprightImage:
    """Returns a picture, read if it is a file, checked if it is an array.

    Raises:
      UserError: it cannot be used; `what` names an array.
    """
    if isinstance(given, str | os.PathLike):
        return read_image(Path(given))
    image = np.asarray(given)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UserError(
            f"{what} is an array of shape {image.shape} and type {image.dtype}, expected "
            "[height, width, 3] or [height, width] of uint8"
        )
    if image.ndim == 2:
        image = np.stack([image] * 3, -1)
    if image.shape[-1] not in (3, 4):
        raise UserError(f"{what} has {image.shape[-1]} channels, expected RGB")
    return UprightImage(np.ascontiguousarray(image[..., :3]))


def _support_label(mask: Any, picture: UprightImage, what: str, name: str | None):
    """Returns a support's label: 1 where the thing is, 0 elsewhere, 255 to ignore."""
    if isinstance(mask, str | os.PathLike):
        label = read_mask(Path(mask), picture, name)
    else:
        mask = np.asarray(mask)
        if mask.shape != picture.image.shape[:2]:
            raise UserError(
                f"the mask of {what} has the shape {mask.shape}, its picture "
                f"{picture.image.shape[:2]}: they must be of one size"
            )
        label = label_of_values(mask, f"the mask of {what}")
    where = f"the mask {mask}" if isinstance(mask, str | os.PathLike) else f"the mask of {what}"
    if not (label == 1).any():
        raise UserError(f"{where} has no foreground: nothing shows what to look for")
    if not (label == 0).any():
        raise UserError(
            f"{where} covers all of its picture: background is needed to compare the thing with"
        )
    return label
