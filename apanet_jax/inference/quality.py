"""How good a mask is to be expected, by the probabilities that it was made of."""

import numpy as np

from apanet_jax.inference.geometry import PositionMap


def expected_iou(probability: PositionMap, marked: np.ndarray) -> float:
    """Returns the expected intersection of a mask and the object by their expected union.

    With p the probability that a position is of the object, and M the positions that are marked:
    sum_M p / (|M| + sum_outside p). 1 where all marked positions are certain and no other is
    possible, 0 where none is marked.

    Args:
      probability: of each position, in [0, 1].
      marked: `[rows, columns]` of bool, the mask at the positions.
    """
    common = float(probability[marked].sum())
    return common / max(np.count_nonzero(marked) + float(probability[~marked].sum()), 1e-6)
