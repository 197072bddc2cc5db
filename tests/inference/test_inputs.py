"""Images and masks from Python: what is taken, and what is refused in one line."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.inference.supports.inputs import as_image, several, support_label
from apanet_jax.runtime.errors import UserError
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene

IMAGE, MASK = scene(RED, LEFT)


def fitted():
    return Segmenter(ColourMatcher()).fit([IMAGE], [MASK])


@pytest.mark.parametrize(
    "given",
    [IMAGE, IMAGE[..., 0], Image.fromarray(IMAGE), "a.png", b"a.png", {"a": IMAGE}, 3, None],
    ids=lambda x: type(x).__name__,
)
def test_one_image_in_place_of_a_list_is_refused(given):
    """An array of one image used to be cut into its rows, each of them taken for a gray image."""
    for call in (
        lambda: fitted().predict(given),
        lambda: Segmenter(ColourMatcher()).fit(given, [MASK]),
    ):
        with pytest.raises(UserError, match=r"expected a list of images.*put it into brackets"):
            call()


@pytest.mark.parametrize("mask", [MASK, Image.fromarray(MASK), "m.png"])
def test_one_mask_in_place_of_a_list_is_refused(mask):
    with pytest.raises(UserError, match="expected a list of masks"):
        Segmenter(ColourMatcher()).fit([IMAGE], mask)


@pytest.mark.parametrize("classes", ["red", 3])
def test_one_class_in_place_of_a_list_is_refused(classes):
    with pytest.raises(UserError, match="expected a list with the name"):
        Segmenter(ColourMatcher()).fit([IMAGE], [MASK], classes)
    with pytest.raises(UserError, match="is no name"):
        Segmenter(ColourMatcher()).fit([IMAGE], [MASK], [""])


def test_several_in_any_form_are_taken():
    expected = fitted().predict([IMAGE])[0]
    batch = np.stack([IMAGE, IMAGE])
    for images in (batch, jnp.asarray(batch), (x for x in batch), [Image.fromarray(IMAGE)] * 2):
        assert all((found == expected).all() for found in fitted().predict(images))
    segmenter = Segmenter(ColourMatcher()).fit(np.stack([IMAGE]), np.stack([MASK]))
    np.testing.assert_array_equal(segmenter.predict([IMAGE])[0], expected)
    assert list(several(np.array(["a.png", "b.png"]), "images", 3)) == ["a.png", "b.png"]


def test_pil_images_are_what_they_show():
    """A palette's numbers used to be taken for gray levels."""
    palette = Image.fromarray(IMAGE).quantize(4)
    np.testing.assert_array_equal(as_image(palette, "it").image, np.array(palette.convert("RGB")))
    assert as_image(Image.fromarray(IMAGE).convert("CMYK"), "it").image.shape == IMAGE.shape
    with pytest.raises(UserError, match="mode I;16: convert it"):
        as_image(Image.new("I;16", (8, 8)), "it")
    label = support_label(Image.fromarray(MASK), as_image(IMAGE, "it"), "it", None)
    np.testing.assert_array_equal(label, MASK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGE.transpose(2, 0, 1), r"shape \(3, 80, 120\).*in the last axis"),
        (IMAGE / 255, "float64, expected"),
        (IMAGE[None], "expected"),
        (np.zeros((0, 4, 3), np.uint8), "expected"),
        ([[1, 2], [3]], "is no array"),
        (None, "type object"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        fitted().predict([given])


def test_masks_of_one_image_are_joined():
    """Annotation tools write a mask for each object; the others are background in it."""
    image, left = scene(RED, LEFT)
    right = np.zeros_like(left)
    right[RIGHT] = True
    image[RIGHT] = GREEN

    class Remembering(ColourMatcher):
        def learn(self, features, labels, chosen=None, before=None):
            self.labels = labels
            return super().learn(features, labels)

    both, apart = Remembering(), Remembering()
    Segmenter(both).fit([image], [left | right])
    Segmenter(apart).fit([image, image], [left, right])
    assert len(apart.labels) == 1
    np.testing.assert_array_equal(apart.labels[0], both.labels[0])
    ignored = np.where(right, 255, left).astype(np.uint8)
    Segmenter(apart).fit([image, image], [ignored, left])
    assert set(np.unique(apart.labels[0])) == {0, 1, 255}
