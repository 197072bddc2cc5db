"""YOLO's format of instances: a text file for each image, with a polygon in each line."""

import json
from collections.abc import Sequence

from apanet_jax.inference.files.formats.instances import AnnotatedImage
from apanet_jax.inference.files.formats.polygons import polygon_of


def yolo_labels(image: AnnotatedImage) -> str:
    """Returns a line for each instance: its class from 0 on, and x y of each corner.

    They are shares of the image's width and height. A way leads to each hole and back, as a line
    has one polygon.
    """
    height, width = image.size
    lines = []
    for instance in image.instances:
        shares = (polygon_of(instance) / (width, height)).reshape(-1)
        lines.append(" ".join([str(instance.class_index), *(f"{x:.6f}" for x in shares)]))
    return "".join(f"{line}\n" for line in lines)


def yolo_data(class_names: Sequence[str]) -> str:
    """Returns data.yaml, whose folder holds `images/` and `labels/`.

    Text in JSON's quotes is YAML too.
    """
    names = "".join(f"  {n}: {json.dumps(name)}\n" for n, name in enumerate(class_names))
    return f"train: images\nval: images\nnames:\n{names}"
