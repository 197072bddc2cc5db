"""What was found in an image: masks, probabilities and scores of each class."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS, MaskOptions, without_specks
from apanet_jax.inference.answers.refinement import BAND, refined
from apanet_jax.inference.matching.geometry import Grid, PositionMap, upsampler
from apanet_jax.inference.matching.presence import PRESENT, Decision, peak

_STRIP = 1 << 16
"""Pixels that are computed at once: they stay in a core's cache, and an image may have hundreds of
millions."""


class Answer:
    """What was found in an image, computed at the image's own size when it is asked for.

    Attributes:
      size: height and width of the image.
      peaks: `[classes]`, the margin that a hundredth of the image's positions exceed.
      likenesses: `[classes]`, see `presence.likeness`.
      scores: `[classes]`, the probability that the image shows each class, if half of the images
        do.
      found: `[classes]`, whether that is above a half.
      qualities: `[classes]`, the mean probability of the positions that each mask marks, which goes
        together with its IoU; 0 where none is marked. It is no estimate of it.
    """

    def __init__(
        self,
        margins: Sequence[PositionMap],
        likenesses: Sequence[float],
        decisions: Sequence[Decision],
        image_size: tuple[int, int],
        grids: Sequence[Grid],
        options: MaskOptions = DEFAULT_OPTIONS,
        image: UInt8[np.ndarray, "height width 3"] | None = None,
        *,
        peaks: Sequence[float] | None = None,
        ranks: Sequence[PositionMap] | None = None,
        scores: Sequence[float] | None = None,
    ):
        """Makes an answer of the margins of each class.

        Args:
          margins: `[rows, columns]` of each class, at the positions inside the image.
          likenesses: of each class.
          decisions: of each class.
          image_size: height and width of the image.
          grids: of each class, of the square that the image was fitted into.
          options: which pixels the masks mark.
          image: which masks are refined at the edges of, RGB; it may be smaller than `image_size`.
          peaks: of each class; None: those of `margins`.
          ranks: of each class, at the same positions: by which the classes compare, see
            `presence.ranks`; None: by their log-odds.
          scores: of each class; None: as peaks and likenesses have them.
        """
        self._decisions, self.size, self._options = decisions, image_size, options
        self._image, self._refined = image, {}
        self._bands = [BAND * max(image_size) / max(x.fitted(image_size)) for x in grids]

        def upsamplers(maps: Sequence[PositionMap]) -> list[Callable[[slice], np.ndarray]]:
            return [upsampler(x, image_size, y) for x, y in zip(maps, grids, strict=True)]

        self._upsamplers = upsamplers(margins)
        self._ranks = [] if ranks is None else upsamplers(ranks)
        self.peaks = np.array([peak(x) for x in margins] if peaks is None else peaks)
        self.likenesses = np.array(likenesses)
        if scores is None:
            measures = zip(decisions, self.peaks, self.likenesses, strict=True)
            scores = [decision.presence(*pair) for decision, *pair in measures]
        self.scores = np.array(scores)
        self.found = self.scores > PRESENT
        of_classes = [d.probability(x) for d, x in zip(decisions, margins, strict=True)]
        marked = [x[x > options.threshold] for x in of_classes]
        self.qualities = np.array([float(x.mean()) if x.size else 0.0 for x in marked])

    @property
    def quality(self) -> float:
        """By which answers are listed, the lowest first: that of the class for which it is lowest.

        Where a class was found, it is its mask's quality; where it was not, the probability that
        the image does not show it.
        """
        return float(np.where(self.found, self.qualities, 1 - self.scores).min())

    def margin(self, index: int) -> Float[np.ndarray, "height width"]:
        """Returns by how much each pixel is above the threshold of a class."""
        return self._filled(np.float32, lambda rows: self._margin(index, rows))

    def mask(self, index: int) -> Bool[np.ndarray, "height width"]:
        """Returns where a class is, if the image shows it: `found` is a guess of its own."""
        if self._options.only_found and not self.found[index]:
            return np.zeros(self.size, bool)
        if self._refines:
            mask = self._refined_mask(index)
        else:
            level = self._options.log_odds
            mask = self._filled(bool, lambda rows: self._log_odds(index, rows) > level)
        return without_specks(mask, self._options.smallest)

    def area(self, index: int) -> int:
        """Returns how many pixels `mask` marks."""
        return int(np.count_nonzero(self.mask(index)))

    def probability(self, index: int) -> Float[np.ndarray, "height width"]:
        """Returns the probability that each pixel is of a class, if the image shows the class."""
        return self._filled(np.float32, lambda rows: self._probability(index, rows))

    def probability_levels(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """Returns `probability` in 255ths, rounded."""
        return self._filled(
            np.uint8, lambda rows: np.round(255 * self._probability(index, rows)).astype(np.uint8)
        )

    def labels(self) -> UInt8[np.ndarray, "height width"]:
        """Returns a label map: 1 + the class of each pixel, 0 where none is in its mask.

        Where several classes claim a pixel, it is of the one with the highest rank where ranks are
        known, else of the most probable: log-odds of different classes compare, margins do not. A
        class that was not found has no pixel.
        """
        candidates = np.flatnonzero(self.found)
        labels = np.zeros(self.size, np.uint8)
        if not len(candidates):
            return labels

        def chosen(rows: slice) -> UInt8[np.ndarray, "height width"]:
            log_odds = np.stack([self._log_odds(index, rows) for index in candidates])
            marked, ranks = log_odds > self._options.log_odds, log_odds
            if self._refines:
                marked = np.stack([self._refined_mask(index)[rows] for index in candidates])
            if self._ranks:
                ranks = np.stack([self._ranks[index](rows) for index in candidates])
            best = np.where(marked, ranks, -np.inf).argmax(0)
            return np.where(marked.any(0), (candidates + 1).astype(np.uint8)[best], np.uint8(0))

        labels = self._filled(np.uint8, chosen)
        if self._options.smallest:
            for index in candidates:
                mask = labels == index + 1
                labels[mask & ~without_specks(mask, self._options.smallest)] = 0
        return labels

    @property
    def _refines(self) -> bool:
        return self._options.refine and self._image is not None

    def _refined_mask(self, index: int) -> Bool[np.ndarray, "height width"]:
        if index not in self._refined:
            levels = self.probability_levels(index)
            band, threshold = self._bands[index], self._options.threshold
            self._refined[index] = refined(levels, self._image, band, threshold)
        return self._refined[index]

    def _margin(self, index: int, rows: slice) -> Float[np.ndarray, "rows width"]:
        return self._upsamplers[index](rows) - self._decisions[index].threshold

    def _log_odds(self, index: int, rows: slice) -> Float[np.ndarray, "rows width"]:
        return self._margin(index, rows) / self._decisions[index].scale

    def _probability(self, index: int, rows: slice) -> Float[np.ndarray, "rows width"]:
        return self._decisions[index].probability(self._upsamplers[index](rows))

    def _strips(self) -> Iterator[slice]:
        height, width = self.size
        step = max(_STRIP // width, 1)
        return (slice(top, min(top + step, height)) for top in range(0, height, step))

    def _filled(self, dtype: type, values: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Returns an array of the image's size, filled strip by strip."""
        result = np.empty(self.size, dtype)
        for rows in self._strips():
            result[rows] = values(rows)
        return result
