"""Masks at an image's own edges, by GrabCut (Rother, Kolmogorov and Blake, 2004)."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

SIDE, MOST_SIDE = 160, 256
"""Longer side of what GrabCut sees, in pixels, and where the band is narrow: its time grows with
the pixels."""
ROUNDS = 2
CERTAIN = 0.7
"""A pixel whose probability is this, or 1 less this, keeps its side."""
BAND = 12
"""How far a border may move, in pixels of the square that the network sees."""
SEEN_BAND = 5.0
"""A band that is narrower than this, in pixels of `SIDE`, asks for a larger one."""
LEAST_BAND = 2.0
"""A narrower band, in pixels of what GrabCut sees, has nothing to refine."""
LEAST_OVERLAP = 0.5
"""A refined mask whose IoU with the given one is below this is no refinement of it."""

_SEED = 0


def refined(
    levels: UInt8[np.ndarray, "height width"],
    image: UInt8[np.ndarray, "height width 3"],
    band: float,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "height width"]:
    """Returns a mask whose border follows the image's edges.

    Pixels far from the mask's border or of a probability near 0 or 1 keep their side; of the others
    the colours on either side and the contrast between neighbours decide. The same input gives the
    same mask.

    Args:
      levels: the probability of the class at each pixel, in 255ths.
      image: RGB.
      band: how far the border may move, in pixels of the mask.
      threshold: above it a pixel is in the mask that is refined, between 0 and 1.

    Returns:
      The refined mask; the given one where one side of it is empty, where GrabCut loses it (see
      `LEAST_OVERLAP`), or where the image is so large that GrabCut sees less than the mask does
      (`LEAST_BAND`).
    """
    given = levels > 255 * threshold
    longer = max(levels.shape)
    factor = min(1.0, max(SIDE, min(MOST_SIDE, longer * SEEN_BAND / band)) / longer)
    size = tuple(max(round(n * factor), 1) for n in levels.shape[::-1])
    small = cv2.resize(levels, size, interpolation=cv2.INTER_AREA)
    probable = small > 255 * threshold
    if band * factor < LEAST_BAND or probable.all() or not probable.any():
        return given
    kinds = np.where(probable, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    kinds[probable & (_far(probable, band * factor) | (small >= 255 * CERTAIN))] = cv2.GC_FGD
    kinds[~probable & (_far(~probable, band * factor) | (small <= 255 * (1 - CERTAIN)))] = (
        cv2.GC_BGD
    )
    pixels = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.setRNGSeed(_SEED)
    models = np.zeros((2, 1, 65))
    cv2.grabCut(pixels, kinds, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = (kinds == cv2.GC_FGD) | (kinds == cv2.GC_PR_FGD)
    if (found & probable).sum() < LEAST_OVERLAP * (found | probable).sum():
        return given
    share = cv2.resize(255 * found.astype(np.uint8), levels.shape[::-1])
    return share > 127


def _far(
    side: Bool[np.ndarray, "height width"], distance: float
) -> Bool[np.ndarray, "height width"]:
    """Returns the pixels of one side of a border that are farther from it than a distance."""
    return cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 3) > distance
