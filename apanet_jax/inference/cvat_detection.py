"""CVAT's automatic annotation with a few supports: a function module for `cvat-cli`.

cvat-cli task auto-annotate TASK --function-module=apanet_jax.inference.cvat_detection \\
    -p supports=str:DIR --allow-unmatched-labels

or `-p fitted=str:FILE`, which `predict --save=FILE` wrote.

It needs `cvat-cli`, whose library this module imports.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from apanet_jax.inference import segmenter
from apanet_jax.inference.answers.mask_options import MaskOptions
from apanet_jax.inference.files.formats.instances import NO_NAME, Instance, instances
from apanet_jax.inference.files.formats.polygons import polygon_of
from apanet_jax.inference.files.support_folders import folder_supports
from apanet_jax.runtime.errors import UserError, needs

with needs("cvat-cli", "automatic annotation for CVAT"):
    import cvat_sdk.auto_annotation as cvat
    from cvat_sdk.masks import encode_mask
    from cvat_sdk.models import LabeledShapeRequest


class FewShotFunction:
    """Finds in each image what a fitted segmenter's supports show; CVAT calls it.

    Attributes:
      spec: the labels, of the segmenter's classes.
    """

    def __init__(self, fitted: segmenter.Segmenter):
        """Takes a segmenter whose `fit` was called."""
        self._fitted = fitted
        names = [name or NO_NAME for name in fitted.classes_]
        labels = [cvat.label_spec(name, number, type="any") for number, name in enumerate(names)]
        self.spec = cvat.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvat.DetectionFunctionContext, image: Image.Image
    ) -> Sequence[LabeledShapeRequest]:
        """Returns the connected parts of what is found, as masks or, where asked for, polygons."""
        answer = next(self._fitted.answers([np.array(image.convert("RGB"))]))
        size, least = (image.height, image.width), context.conf_threshold or 0
        return [
            _polygon(found) if context.conv_mask_to_poly else _mask(found, size)
            for found in instances(answer.labels(), answer.scores, answer.probability_levels)
            if found.score >= least
        ]


def create(
    supports: str | None = None,
    fitted: str | None = None,
    workdir: str | None = None,
    size: int | None = None,
    smallest: int = 0,
) -> FewShotFunction:
    """Returns the function that `cvat-cli` asks for, with the parameters given by `-p`.

    Args:
      supports: a folder, see `folder_supports`; a folder for each class, called like CVAT's label.
      fitted: a file that `predict --save` or `Segmenter.save` wrote, in place of supports.
      workdir: of a head, see `segmenter.load`.
      size: longer side at which images are seen, see `segmenter.load`.
      smallest: connected parts of fewer pixels are left out.

    Raises:
      UserError: the supports, the saved segmenter or the head cannot be used.
    """
    if (supports is None) == (fitted is None) or fitted and (workdir or size):
        raise UserError(
            "expected -p supports=str:DIR, with workdir and size or without; or "
            "-p fitted=str:FILE, which has both"
        )
    if fitted:
        known = segmenter.load(fitted)
        known.options = known.options._replace(smallest=smallest or known.options.smallest)
        return FewShotFunction(known)
    names, images, masks = zip(*folder_supports(Path(supports)), strict=True)
    empty = segmenter.load(workdir, size=size)
    empty.options = MaskOptions(smallest=smallest)
    return FewShotFunction(empty.fit(images, masks, None if names[0] is None else names))


def _mask(found: Instance, size: tuple[int, int]) -> LabeledShapeRequest:
    return cvat.mask(found.class_index, encode_mask(found.full_mask(size)))


def _polygon(found: Instance) -> LabeledShapeRequest:
    return cvat.polygon(found.class_index, polygon_of(found).reshape(-1).astype(float).tolist())
