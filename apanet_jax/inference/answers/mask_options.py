"""Which pixels the masks of an answer mark."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool


class MaskOptions(NamedTuple):
    """Which pixels a mask marks.

    Attributes:
      threshold: those whose probability is above this, between 0 and 1.
      smallest: connected regions of fewer pixels are left out.
      only_found: whether a class that was not found has an empty mask.
      refine: whether masks and label maps follow the image's edges, see `refinement.refined`.
    """

    threshold: float = 0.5
    smallest: int = 0
    only_found: bool = False
    refine: bool = True

    @property
    def log_odds(self) -> float:
        """The log-odds of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))


DEFAULT_OPTIONS = MaskOptions()


def without_specks(
    mask: Bool[np.ndarray, "height width"], smallest: int
) -> Bool[np.ndarray, "height width"]:
    """Returns a mask without the connected regions (of 8 neighbours) of fewer pixels."""
    if smallest <= 1 or not mask.any():
        return mask
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), None)
    large = statistics[:, cv2.CC_STAT_AREA] >= smallest
    return mask & large[regions]
