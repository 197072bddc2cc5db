"""The connected parts of a label map as instances: what the formats of annotation tools hold."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

Label = UInt8[np.ndarray, "height width"]

NO_NAME = "object"
"""What a class without a name is called where a format or tool wants one."""


class Instance(NamedTuple):
    """A connected part of a class in an image.

    Attributes:
      class_index: which of the classes, from 0 on.
      left: first column of its box, in pixels.
      top: first row of its box.
      mask: its pixels within its box.
      score: the probability that the image shows the class, times the mean probability of the
        pixels.
    """

    class_index: int
    left: int
    top: int
    mask: Bool[np.ndarray, "rows columns"]
    score: float

    @property
    def width(self) -> int:
        """Columns of the box."""
        return self.mask.shape[1]

    @property
    def height(self) -> int:
        """Rows of the box."""
        return self.mask.shape[0]

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return int(np.count_nonzero(self.mask))

    def full_mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """Returns the mask of the whole image, of which `size` is height and width."""
        mask = np.zeros(size, bool)
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, None)
        mask[rows, columns][:, : self.width] = self.mask
        return mask


class AnnotatedImage(NamedTuple):
    """An image with the instances in it.

    Attributes:
      file_name: of the image, as the format is to say it.
      size: height and width.
      instances: by class, in the order of their first pixels.
    """

    file_name: str
    size: tuple[int, int]
    instances: Sequence[Instance]


def instances(
    labels: Label,
    scores: Sequence[float],
    probability_levels: Callable[[int], UInt8[np.ndarray, "height width"]],
) -> list[Instance]:
    """Returns the connected parts (of 8 neighbours) of each class; touching objects are one.

    Args:
      labels: 0 background, 1 + the class's index.
      scores: of each class, the probability that the image shows it.
      probability_levels: returns the probability of a class at each pixel, in 255ths.
    """
    found = []
    for index in (int(x) - 1 for x in np.unique(labels) if x):
        of_class = (labels == index + 1).view(np.uint8)
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
        levels = probability_levels(index)
        for part in range(1, count):
            left, top, width, height = (int(x) for x in statistics[part, : cv2.CC_STAT_AREA])
            box = slice(top, top + height), slice(left, left + width)
            mask = parts[box] == part
            score = float(scores[index]) * float(levels[box][mask].mean()) / 255
            found.append(Instance(index, left, top, mask, round(score, 4)))
    return found
