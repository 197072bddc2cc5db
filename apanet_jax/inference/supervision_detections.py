"""What was found as `Detections` of the package `supervision`, which annotates, tracks and counts.

It needs `supervision`, which this module imports.
"""

import numpy as np

from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.files.formats.instances import instances
from apanet_jax.runtime.errors import needs

with needs("supervision", "what was found as its Detections"):
    import supervision


def detections(answer: Answer) -> supervision.Detections:
    """Returns the connected parts of what was found, as in the formats for annotation tools.

    Boxes are the first column and row of each part, and the column and row behind the last.

    Args:
      answer: of `Segmenter.answers`.
    """
    labels = answer.labels()
    found = instances(labels, answer.scores, answer.probability_levels)
    if not found:
        return supervision.Detections.empty()
    boxes = [(x.left, x.top, x.left + x.width, x.top + x.height) for x in found]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32),
        mask=np.stack([x.full_mask(labels.shape) for x in found]),
        confidence=np.array([x.score for x in found], np.float32),
        class_id=np.array([x.class_index for x in found]),
    )
