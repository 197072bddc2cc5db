"""What a class's own supports tell: each in turn is compared with the others as its supports."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from apanet_jax.inference.geometry import label_shares
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.presence import Decision

_THRESHOLDS = np.round(np.arange(-0.1, 0.16, 0.02), 2)


def adapted_decision(
    matcher: Matcher, features: Sequence[Any], labels: Sequence[np.ndarray]
) -> Decision:
    """Returns the decision of a class, its threshold adapted to its supports if there are several.

    The threshold is that with the highest IoU of the supports' foreground.

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
        foreground, background = label_shares(label, matcher.grid)
        above = margins > _THRESHOLDS[:, None, None]
        area = foreground.sum()
        hits, false = (above * foreground).sum((1, 2)), (above * background).sum((1, 2))
        sums += np.stack([hits / area, (area + false) / area], -1)
    best = _THRESHOLDS[np.argmax(sums[:, 0] / sums[:, 1])]
    return decision._replace(threshold=float(best))
