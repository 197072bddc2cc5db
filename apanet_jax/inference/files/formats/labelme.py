"""LabelMe's format: a JSON for each image, with a polygon or a mask for each instance."""

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from apanet_jax.inference.files.formats.instances import AnnotatedImage, Instance
from apanet_jax.inference.files.formats.polygons import close_polygon

_VERSION = "5.5.0"
"""LabelMe's, whose files have these keys; shapes of type "mask" came with 5.3."""


def labelme_file(image: AnnotatedImage, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON of an image; `file_name` leads to the image from the JSON's folder."""
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": [labelme_shape(x, class_names[x.class_index]) for x in image.instances],
        "imagePath": image.file_name,
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }


def labelme_shape(instance: Instance, label: str) -> dict[str, Any]:
    """Returns a polygon, or a mask where a polygon would be off by more than a pixel."""
    polygon = close_polygon(instance, with_holes=False)
    if polygon is not None:
        points, kind, mask = polygon, "polygon", None
    else:
        # Both corners are pixels of the box.
        right, bottom = instance.left + instance.width - 1, instance.top + instance.height - 1
        points, kind = np.array([(instance.left, instance.top), (right, bottom)]), "mask"
        image = cv2.imencode(".png", instance.mask.astype(np.uint8) * 255)[1]
        mask = base64.b64encode(image.tobytes()).decode()
    return {
        "label": label,
        "points": points.astype(float).tolist(),
        "group_id": None,
        "description": f"score {instance.score:.2f}",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
    }
