"""COCO's format of instances: one JSON for all images, masks as compressed run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from apanet_jax.inference.files.formats.instances import AnnotatedImage, Instance


def coco_annotation(
    instance: Instance, size: tuple[int, int], image_id: int, number: int
) -> dict[str, Any]:
    """Returns an instance as one of COCO's annotations; pycocotools decodes it to the very mask.

    Args:
      instance: what was found.
      size: height and width of the image.
      image_id: of the image.
      number: id of the annotation.
    """
    lengths = coco_masks.encode(np.asfortranarray(instance.full_mask(size)).view(np.uint8))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": instance.class_index + 1,
        "segmentation": {"size": list(size), "counts": lengths["counts"].decode()},
        "area": instance.area,
        "bbox": [instance.left, instance.top, instance.width, instance.height],
        "iscrowd": 0,
        "score": instance.score,
    }


class CocoFileWriter:
    """Collects images for one file in COCO's format."""

    def __init__(self, class_names: Sequence[str]):
        """Takes the names of the categories, whose ids count from 1."""
        categories = [{"id": n, "name": name} for n, name in enumerate(class_names, 1)]
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}

    def add(self, image: AnnotatedImage) -> None:
        """Adds an image, with an annotation for each instance; ids count from 1."""
        images, annotations = self.content["images"], self.content["annotations"]
        height, width = image.size
        number = len(images) + 1
        images.append(
            {"id": number, "file_name": image.file_name, "width": width, "height": height}
        )
        for instance in image.instances:
            annotations.append(coco_annotation(instance, image.size, number, len(annotations) + 1))
