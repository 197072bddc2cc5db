"""Finds classes in new images, given a few images with masks: an estimator as in scikit-learn.

segmenter = apanet_jax.load()
segmenter.fit(images, masks)
found = segmenter.predict(new_images)
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from apanet_jax.data.transforms import IGNORE, fit_square
from apanet_jax.inference.answer import Answer
from apanet_jax.inference.bundled import open_matcher
from apanet_jax.inference.calibration import calibrated, negative_label
from apanet_jax.inference.geometry import label_shares, square_label, upsample
from apanet_jax.inference.head_choice import AUTO, HeadChoice
from apanet_jax.inference.inputs import Image, as_image, several, support_label
from apanet_jax.inference.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.presence import (
    Decision,
    likeness,
    support_appearance,
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
      size: longer side to which images are resized, in pixels. None: what the head's decision.json
        says, else what it was trained at; without a head 518 for DINOv2-S, 385 for the small one.
      trained: whether to use a head at all. False: frozen features alone, see `rules`.

    Raises:
      UserError: there is no such head, the weights are not installed, or two choices exclude each
        other.
    """
    if size is not None and size < _SMALLEST_SIZE:
        raise UserError(f"size {size}: expected at least {_SMALLEST_SIZE} pixels")
    name, matcher = open_matcher(source and Path(source), head, size, trained=trained)
    return Segmenter(matcher, head=name)


class Segmenter:
    """Finds classes that a few supports show.

    Attributes:
      matcher: how images are compared with supports.
      options: which pixels the masks mark; may be set at any time.
      head: the name of the head or the features that the matcher uses, as `load` chose it.
      classes_: names of the classes, in the order in which they first came; [""] where the
        supports were given without.
      decisions_: thresholds of each class.
    """

    def __init__(self, matcher: Matcher, options: MaskOptions = DEFAULT_OPTIONS, *, head: str = ""):
        """Makes a segmenter that has no supports yet."""
        self.matcher, self.options, self.head = matcher, options, head
        self.classes_: list[str] = []
        self.decisions_: list[Decision] = []

    def fit(
        self,
        images: Iterable[Image],
        masks: Iterable[Any],
        classes: Iterable[str] | None = None,
        negatives: Iterable[Image] = (),
    ) -> "Segmenter":
        """Learns from supports.

        Several masks of one image and class are joined: a pixel is foreground if it is in any.

        Args:
          images: arrays `[H, W, 3]` or `[H, W]` of uint8, PIL images, or files.
          masks: an array `[H, W]` for each: true, 1 or 255 where the class is, 0 elsewhere (255
            beside 1 is ignored); or a PIL image of such values; or a file, see `masks.read_mask`.
          classes: the name of each support's class; None: they all show the same.
          negatives: images that show none of the classes: what is in them is background, and
            whether an image shows a class is fitted to them.

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
        supports = self._squares(zip(images, masks, names, strict=True))
        if len(supports) > _MOST_CLASSES:
            raise UserError(f"{len(supports)} classes: a label map holds {_MOST_CLASSES} at most")
        embedded: dict[bytes, Any] = {}
        blanks = self._blanks(negatives, supports)
        learned, appearances, decisions = [], [], []
        for of_class in supports.values():
            for square in (*of_class, *blanks):
                if square not in embedded:
                    embedded[square] = self.matcher.embed(_image_of(square, self.matcher.grid.size))
            features, labels = [embedded[x] for x in of_class], list(of_class.values())
            with_blanks = [*features, *(embedded[x] for x in blanks)], [*labels, *blanks.values()]
            learned.append(self.matcher.learn(*with_blanks))
            shares = zip(*(label_shares(x, self.matcher.grid) for x in labels), strict=True)
            of_features = [self.matcher.appearance(x) for x in features]
            appearances.append(support_appearance(of_features, *shares, self.matcher.prototypes))
            decisions.append(calibrated(self.matcher, learned[-1], *with_blanks))
        self._learned, self._appearances = learned, appearances
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
        features, size = self.matcher.embed(self._square(image)), image.shape[:2]
        high = self.matcher.high(features)
        rows, columns = grid.inside(size)
        inside = np.zeros(high.shape[:2], np.float32)
        inside[:rows, :columns] = 1
        flat = high.reshape(-1, high.shape[-1])
        found = kmeans(flat, number, weights=inside.reshape(-1), key=jax.random.key(0)).assignment
        clusters = np.asarray(found).reshape(inside.shape)[:rows, :columns]
        return np.argmax([upsample(clusters == k, size, grid) for k in range(number)], 0)

    def _squares(
        self, supports: Iterable[tuple[Image, Any, str]]
    ) -> dict[str, dict[bytes, UInt8[np.ndarray, "size size"]]]:
        """Returns for each class the labels of its supports by the bytes of their squares."""
        found: dict[str, dict[bytes, np.ndarray]] = {}
        for number, (given, mask, name) in enumerate(supports, 1):
            what = str(given) if isinstance(given, str | os.PathLike) else f"support {number}"
            image = as_image(given, what)
            label = square_label(support_label(mask, image, what, name or None), self.matcher.grid)
            of_class, square = found.setdefault(name, {}), self._square(image.image).tobytes()
            if square in of_class:
                if (of_class[square] == label).all():
                    raise UserError(f"{what} is given twice{f' for {name}' if name else ''}")
                label = _joined(of_class[square], label)
            of_class[square] = label
        return found

    def _blanks(
        self, negatives: Iterable[Image], supports: dict[str, dict[bytes, Any]]
    ) -> dict[bytes, UInt8[np.ndarray, "size size"]]:
        """Returns the labels of negatives by the bytes of their squares."""
        found, shown = {}, {square for of_class in supports.values() for square in of_class}
        for number, given in enumerate(several(negatives, "images", of_one=3), 1):
            what = str(given) if isinstance(given, str | os.PathLike) else f"negative {number}"
            image = as_image(given, what).image
            square = self._square(image).tobytes()
            if square in shown:
                raise UserError(f"{what} is a support too: a negative shows none of the classes")
            if square in found:
                raise UserError(f"{what} is given twice as a negative")
            found[square] = negative_label(image.shape[:2], self.matcher.grid)
        return found

    def _answer(self, given: Image, what: str) -> Answer:
        image = as_image(given, what).image
        features, size = self.matcher.embed(self._square(image)), image.shape[:2]
        grid, options = self.matcher.grid, self.options
        rows, columns = grid.inside(size)
        margins = [np.asarray(self.matcher.margins(features, x)) for x in self._learned]
        inside = [x[:rows, :columns].astype(np.float32) for x in margins]
        densities = self.matcher.densities(features, self._learned) if len(inside) > 1 else None
        if densities is not None:
            densities = [x[:rows, :columns] for x in densities]
        appearance = self.matcher.appearance(features)[:rows, :columns]
        of_classes = zip(self._appearances, inside, self.decisions_, strict=True)
        likenesses = [
            likeness(supports, appearance, of_class, decision.threshold)
            for supports, of_class, decision in of_classes
        ]
        seen = image if options.refine else None
        return Answer(
            inside,
            likenesses,
            self.decisions_,
            size,
            grid,
            options,
            seen,
            densities=densities,
        )

    def _square(self, image: np.ndarray) -> UInt8[np.ndarray, "size size 3"]:
        grid = self.matcher.grid
        label = np.zeros(image.shape[:2], np.uint8)
        return fit_square(image, label, grid.size, grid.stride)[0]


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


def _image_of(square: bytes, size: int) -> UInt8[np.ndarray, "size size 3"]:
    return np.frombuffer(square, np.uint8).reshape(size, size, 3)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the label of an image of which two masks show objects of one class."""
    ignored = (first == IGNORE) | (second == IGNORE)
    return np.where((first == 1) | (second == 1), 1, ignored * np.uint8(IGNORE)).astype(np.uint8)
