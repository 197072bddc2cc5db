"""Finds classes in new images, given a few images with masks: an estimator as in scikit-learn.

segmenter = apanet_jax.load()
segmenter.fit(images, masks)
found = segmenter.predict(new_images)
segmenter.save("beetles.apanet")
segmenter = apanet_jax.load("beetles.apanet").partial_fit(more_images, more_masks)
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.heads.bundled import open_matcher, reopen_matcher
from apanet_jax.inference.heads.head_choice import AUTO, HeadChoice, HeadSource
from apanet_jax.inference.matching.calibration import calibrated
from apanet_jax.inference.matching.geometry import fitted_square, upsample
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.presence import Decision, prototype_of
from apanet_jax.inference.multiscale.close_ups import (
    CloseUps,
    SupportAppearance,
    small_supports,
)
from apanet_jax.inference.multiscale.scales import Scales
from apanet_jax.inference.multiscale.search import LearnedClass, search
from apanet_jax.inference.multiscale.small_squares import load_small_squares
from apanet_jax.inference.supports import saved_segmenter
from apanet_jax.inference.supports.given_supports import (
    Support,
    given_negatives,
    given_supports,
    packed,
    unpacked,
)
from apanet_jax.inference.supports.inputs import Image, as_image, several
from apanet_jax.inference.supports.saved_segmenter import Contents
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.runtime.atomic_files import write_bytes
from apanet_jax.runtime.blas import one_blas_thread
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
    """Returns a segmenter that waits for its supports, or one that was saved with them.

    Args:
      source: workdir of a run that trained a head, or a folder that `apanet_jax.export` wrote; or
        the file of a saved segmenter, which is given alone. None: what comes with the package, see
        `head`.
      head: which of those that come with the package, see `head_choice.HEADS`.
      size: longer side at which images are looked at, in pixels: above the network's own one in
        tiles, and as a whole besides, see `scales`. None: the network's own one, which is what the
        head's decision.json says, else what it was trained at; 518 for DINOv2-S and 385 for the
        small one of those that come with the package.
      trained: whether to use a head at all. False: frozen features alone, see `rules`.

    Raises:
      UserError: there is no such head, the weights are not installed, or two choices exclude each
        other; a saved segmenter is damaged, or its weights are others than those installed.
    """
    if source is not None and Path(source).is_file():
        if head != AUTO or size is not None or not trained:
            raise UserError(
                f"{source} is a saved segmenter, which has its head and its size: give it alone"
            )
        return from_bytes(saved_segmenter.read(Path(source)), str(source))
    if size is not None and size < _SMALLEST_SIZE:
        raise UserError(f"size {size}: expected at least {_SMALLEST_SIZE} pixels")
    name, matcher = open_matcher(source and Path(source), head, size, trained=trained)
    folder = None if source is None else str(Path(source).absolute())
    chosen = HeadSource(folder, AUTO if source else name, trained)
    return Segmenter(matcher, head=name, source=chosen, size=size)


def from_bytes(content: bytes, where: str = "the saved segmenter") -> "Segmenter":
    """Returns the segmenter that `Segmenter.to_bytes` made bytes of.

    Args:
      content: the bytes; nothing in them is run.
      where: names them in messages, and is where the folder of a head is looked for beside, if it
        is no longer where it was.

    Raises:
      UserError: they are damaged, or the weights are others than those installed.
    """
    contents = saved_segmenter.from_bytes(content, where)
    name, matcher, same = reopen_matcher(contents.source, contents.size, contents.weights, where)
    segmenter = Segmenter(
        matcher,
        MaskOptions(**contents.options),
        head=name,
        source=contents.source,
        size=contents.largest,
    )
    if not same:
        print(f"note: {where} is of an earlier version: it is learned again", file=sys.stderr)
    segmenter._restore(contents, same=same)
    return segmenter


class Segmenter:
    """Finds classes that a few supports show.

    Attributes:
      matcher: how images are compared with supports.
      options: which pixels the masks mark; may be set at any time.
      head: the name of the head or the features that the matcher uses, as `load` chose it.
      classes_: names of the classes, in the order in which they first came; [""] where the
        supports were given without.
      decisions_: thresholds of each class.
      supports_: by class, its supports, each image once.
      source: by which a saved segmenter finds its matcher again; None: it cannot be saved.
      scales: at which sizes images are looked at.
    """

    def __init__(
        self,
        matcher: Matcher,
        options: MaskOptions = DEFAULT_OPTIONS,
        *,
        head: str = "",
        source: HeadSource | None = None,
        size: int | None = None,
    ):
        """Makes a segmenter that has no supports yet.

        Args:
          matcher: see `Segmenter`.
          options: see `Segmenter`.
          head: see `Segmenter`.
          source: see `Segmenter`.
          size: see `load`.
        """
        self.matcher, self.options, self.head, self.source = matcher, options, head, source
        self._size = size
        # By the digests of the supports' images.
        self._supports: dict[str, dict[str, Support]] = {}
        self._negatives: dict[str, Support] = {}
        self._learned: dict[str, LearnedClass] = {}
        self._small: dict[str, SupportAppearance] = {}

    @property
    def classes_(self) -> list[str]:
        return list(self._learned)

    @property
    def decisions_(self) -> list[Decision]:
        return [x.decision for x in self._learned.values()]

    @property
    def scales(self) -> Scales:
        of_classes = [[x.zoom for x in supports] for supports in self.supports_.values()]
        zoom = max((float(np.median(zooms)) for zooms in of_classes), default=1.0)
        return Scales(self.matcher.grid, self._size, zoom)

    @property
    def supports_(self) -> dict[str, list[Support]]:
        return {name: list(x.values()) for name, x in self._supports.items()}

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
        given = given_supports(images, masks, classes, self.scales)
        return self._fit({}, given, given_negatives(negatives, self.matcher.grid))

    def partial_fit(
        self,
        images: Iterable[Image],
        masks: Iterable[Any],
        classes: Iterable[str] | None = None,
        negatives: Iterable[Image] = (),
    ) -> "Segmenter":
        """Learns from further supports besides those that it has; embeds the new images alone.

        An image that was a support of the class before has the new mask from now on: a corrected
        mask takes the place of the old one.

        Args:
          images: see `fit`.
          masks: see `fit`.
          classes: see `fit`; some may be new, but the first supports had a class or these have not.
          negatives: see `fit`; with some of them there may be no new supports.

        Returns:
          itself.

        Raises:
          UserError: something cannot be used; nothing has been learned then.
        """
        blanks = given_negatives(negatives, self.matcher.grid)
        images, masks = several(images, "images", of_one=3), several(masks, "masks", of_one=2)
        images, masks = list(images), list(masks)
        if blanks and self._supports and not images and not masks:
            return self._fit(self._supports, {}, self._negatives | blanks)
        given = given_supports(images, masks, classes, self.scales)
        if self._supports and ("" in self._supports) != ("" in given):
            had, have = ("no class", "one") if "" in self._supports else ("a class", "none")
            raise UserError(
                f"the supports so far have {had}, the new ones have {have}: name every support's "
                "class, or none"
            )
        return self._fit(self._supports, given, self._negatives | blanks)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the segmenter into one file, which `load` opens again with the same answers.

        The file holds the supports (their images, masks and features), what was chosen by them, and
        the hash of the weights, which are not in it. Nothing in it is run when it is opened. It
        appears whole or not at all.

        Raises:
          UserError: it cannot be written, or the segmenter did not come from `load`.
        """
        write_bytes(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns what `save` writes.

        Raises:
          UserError: the segmenter did not come from `load`.
        """
        if self.source is None:
            raise UserError("a segmenter that did not come from apanet_jax.load cannot be saved")
        kept = {**self._supports, **({None: self._negatives} if self._negatives else {})}
        supports, images = packed(kept, self.matcher.stored)
        contents = Contents(
            self.source,
            self.matcher.grid.size,
            self._size,
            self.matcher.fingerprints(),
            self.options._asdict(),
            {name: self.matcher.chosen(x.learned) for name, x in self._learned.items()},
            supports,
            images,
        )
        return saved_segmenter.to_bytes(contents)

    def __reduce__(self):
        """Pickles what `save` writes: the weights are looked up where it is unpickled."""
        return from_bytes, (self.to_bytes(),)

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

    @one_blas_thread()
    def _fit(
        self,
        before: Mapping[str, dict[str, Support]],
        given: Mapping[str, dict[str, Support]],
        negatives: Mapping[str, Support],
    ) -> "Segmenter":
        """Learns the classes of which supports are given, and keeps the others.

        All of them are learned where the negatives are others than before.
        """
        names = list(dict.fromkeys([*before, *given]))
        if len(names) > _MOST_CLASSES:
            raise UserError(f"{len(names)} classes: a label map holds {_MOST_CLASSES} at most")
        supports = {name: before.get(name, {}) | given.get(name, {}) for name in names}
        for number, (digest, negative) in enumerate(negatives.items(), 1):
            if any(digest in of_class for of_class in supports.values()):
                what = negative.files[0][0] or f"negative {number}"
                raise UserError(f"{what} is a support too: a negative shows none of the classes")
        earlier = (*before.values(), self._negatives)
        known = (support for images in earlier for support in images.values())
        embedded = {support.square.tobytes(): support.features for support in known}
        negatives = dict(negatives)
        for images in (*supports.values(), negatives):
            for digest, support in images.items():
                if (content := support.square.tobytes()) not in embedded:
                    embedded[content] = self.matcher.embed(support.square)
                images[digest] = support._replace(features=embedded[content])
        supports = self._with_prototypes(supports)
        anew = names if negatives.keys() != self._negatives.keys() else given
        learned = {
            name: self._learn(name, supports[name].values(), negatives.values())
            if name in anew
            else self._learned[name]
            for name in names
        }
        self._supports, self._negatives, self._learned = supports, negatives, learned
        self._small = {name: x for name, x in self._small.items() if name not in given}
        return self

    def _learn(
        self,
        name: str,
        supports: Iterable[Support],
        negatives: Iterable[Support],
        chosen: Mapping[str, Any] | None = None,
    ) -> LearnedClass:
        """Returns a class, which may have been learned before; see `Matcher.learn`."""
        supports = list(supports)
        given = [*supports, *negatives]
        features, labels = [x.features for x in given], [x.label for x in given]
        before = self._learned[name].learned if name in self._learned else None
        learned = self.matcher.learn(features, labels, chosen, before)
        prototypes = [x.prototype for x in supports]
        decision = calibrated(self.matcher, learned, features, labels, prototypes)
        return LearnedClass(learned, prototype_of(prototypes), decision)

    @one_blas_thread()
    def _restore(self, contents: Contents, *, same: bool) -> None:
        """Takes the supports of a saved segmenter, with what the same matcher knew of them."""
        kept = unpacked(contents, self.matcher.restored if same else None)
        negatives = kept.pop(None, {})
        if not same:
            self._fit({}, {name: kept[name] for name in contents.classes}, negatives)
            return
        self._negatives, self._supports = negatives, self._with_prototypes(kept)
        negatives = self._negatives.values()
        self._learned = {
            name: self._learn(name, self._supports[name].values(), negatives, chosen)
            for name, chosen in contents.classes.items()
        }

    def _with_prototypes(
        self, supports: Mapping[str, dict[str, Support]]
    ) -> dict[str, dict[str, Support]]:
        """Returns the supports of each class with the prototypes that are not yet known."""

        def known(support: Support) -> Support:
            if support.prototype is not None:
                return support
            given = support.square, support.label, support.features
            return support._replace(prototype=self.matcher.prototype(*given))

        return {name: {k: known(x) for k, x in y.items()} for name, y in supports.items()}

    def _close_ups(self) -> CloseUps:
        """Returns what close-ups need; computed where they are first needed."""
        squares, grid = load_small_squares(), self.matcher.grid
        for name in self._learned:
            if name not in self._small:
                shown = [(x.square, x.label, x.size) for x in self._supports[name].values()]
                self._small[name] = small_supports(squares, grid, shown)
        return CloseUps(squares, [self._small[name] for name in self._learned])

    @one_blas_thread()
    def _answer(self, given: Image, what: str) -> Answer:
        read = as_image(given, what, side=self.scales.most_seen)
        found = search(
            self.matcher,
            list(self._learned.values()),
            self.scales,
            read.image,
            read.size,
            self._close_ups,
        )
        seen = read.image if self.options.refine else None
        return Answer(
            [x.margins for x in found],
            [x.likeness for x in found],
            self.decisions_,
            read.size,
            [x.grid for x in found],
            self.options,
            seen,
            peaks=[x.peak for x in found],
            ranks=None if len(found) == 1 else [x.ranks for x in found],
            scores=[x.presence for x in found],
        )
