"""Helpers for other tools, with these tools' own libraries: tests/tools.sh installs them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from apanet_jax.inference import segmenter
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene


@pytest.fixture
def fitted():
    supports = [scene(RED, LEFT), scene(GREEN, LEFT)]
    images, masks = zip(*supports, strict=True)
    return Segmenter(ColourMatcher()).fit(images, masks, ["beetle", "leaf"])


def truth(fitted, image):
    return next(fitted.answers([image])).labels()


def test_cvat_gets_masks_that_its_sdk_decodes(fitted, tmp_path, monkeypatch):
    pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is not installed")
    from cvat_sdk.masks import decode_mask

    from apanet_jax.inference import cvat_detection

    monkeypatch.setattr(segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher()))
    for name, colour in (("beetle", RED), ("leaf", GREEN)):
        (tmp_path / name).mkdir()
        for ending, values in zip(("", "_mask"), scene(colour, LEFT), strict=True):
            Image.fromarray(values).save(tmp_path / name / f"a{ending}.png")
    function = cvat_detection.create(str(tmp_path))
    assert [label.name for label in function.spec.labels] == ["beetle", "leaf"]
    image = scene(GREEN, RIGHT)[0]
    height, width = image.shape[:2]
    context = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    (shape,) = function.detect(context, Image.fromarray(image))
    assert (shape.label_id, shape.type.value) == (1, "mask")
    decoded = decode_mask(shape.points, image_width=width, image_height=height)
    np.testing.assert_array_equal(decoded, truth(fitted, image) == 2)
    context.conv_mask_to_poly = True
    (shape,) = function.detect(context, Image.fromarray(image))
    assert shape.type.value == "polygon" and len(shape.points) >= 6
    context.conf_threshold = 1.0
    assert not function.detect(context, Image.fromarray(image))


def test_supervision_gets_boxes_masks_and_scores(fitted):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    from apanet_jax.inference.supervision_detections import detections

    image = scene(GREEN, RIGHT)[0]
    found = detections(next(fitted.answers([image])))
    expected = truth(fitted, image) == 2
    np.testing.assert_array_equal(found.mask[0], expected)
    assert found.class_id.tolist() == [1] and 0 < found.confidence[0] <= 1
    boxes = supervision.mask_to_xyxy(found.mask)
    # Its own boxes end with the last column and row.
    np.testing.assert_array_equal(found.xyxy, boxes + (0, 0, 1, 1))
    np.testing.assert_array_equal(found.area, [expected.sum()])
    drawn = supervision.MaskAnnotator(opacity=1).annotate(np.zeros_like(image), found)
    np.testing.assert_array_equal(drawn.any(-1), expected)
    blue = np.zeros_like(image)
    blue[..., 2] = 200
    assert len(detections(next(fitted.answers([blue])))) == 0
