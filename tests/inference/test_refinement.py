"""Refined masks: borders that lie on an image's edges, and masks that are left as they are."""

import numpy as np

from apanet_jax.inference.answers.mask_options import MaskOptions
from apanet_jax.inference.answers.refinement import refined
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import LEFT, RED, RIGHT, ColourMatcher, scene


def blurred_square(shift=0, softness=20):
    """Returns an image of a square, where it is, and a probability with a soft, shifted border."""
    rng = np.random.default_rng(0)
    truth = np.zeros((120, 160), bool)
    truth[30:90, 40:110] = True
    image = np.where(truth[..., None], (200, 60, 40), (40, 90, 160))
    image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:120, :160]
    outside = np.maximum(np.abs(rows - 59.5) - 30, np.abs(columns - shift - 74.5) - 35)
    levels = np.round(255 / (1 + np.exp(np.clip(outside / softness, -30, 30)))).astype(np.uint8)
    return image, truth, levels


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def test_the_border_moves_to_the_edge():
    image, truth, levels = blurred_square(shift=8)
    assert iou(levels > 127, truth) < 0.85
    found = refined(levels, image, 12)
    assert found.dtype == bool and iou(found, truth) > 0.97
    np.testing.assert_array_equal(refined(levels, image, 12), found)
    large = np.kron(image, np.ones((6, 6, 1), np.uint8)), np.kron(levels, np.ones((6, 6), np.uint8))
    assert iou(refined(large[1], large[0], 72), np.kron(truth, np.ones((6, 6), bool))) > 0.95


def test_a_mask_that_is_empty_full_or_would_be_lost_stays():
    image, _, levels = blurred_square()
    for constant in (0, 255):
        same = refined(np.full_like(levels, constant), image, 12)
        assert (same == (constant > 127)).all()
    # Uncertain everywhere, half of an image of one colour: nothing holds the mask.
    flat = np.full_like(image, 90)
    weak = np.full_like(levels, 110)
    weak[:, :80] = 140
    assert iou(refined(weak, flat, 12), weak > 127) >= 0.5


def test_the_border_moves_no_farther_than_the_band():
    image, truth, levels = blurred_square(shift=16, softness=60)
    near = refined(levels, image, 6)
    moved = near != (levels > 127)
    assert moved.any() and iou(near, truth) < iou(refined(levels, image, 40), truth)
    rows, columns = np.nonzero(moved)
    edges = np.abs(np.maximum(np.abs(rows - 59.5) - 30, np.abs(columns - 16 - 74.5) - 35))
    assert edges.max() < 8
    # A band that GrabCut does not see: 3 pixels of 960 are less than one of 256.
    large = np.kron(levels, np.ones((6, 6), np.uint8))
    pixels = np.kron(image, np.ones((6, 6, 1), np.uint8))
    np.testing.assert_array_equal(refined(large, pixels, 3), large > 127)


def test_a_segmenter_refines_masks_and_label_maps_and_no_probabilities():
    support, query = scene(RED, LEFT), scene(RED, RIGHT)
    plain = Segmenter(ColourMatcher(), MaskOptions(refine=False)).fit([support[0]], [support[1]])
    (before,) = plain.answers([query[0]])
    mask, probability = before.mask(0), before.probability(0)
    plain.options = MaskOptions(refine=True)
    (after,) = plain.answers([query[0]])
    np.testing.assert_array_equal(after.probability(0), probability)
    assert iou(after.mask(0), query[1]) > max(iou(mask, query[1]), 0.98)
    assert after.area(0) == after.mask(0).sum()
    np.testing.assert_array_equal(after.labels() == 1, after.mask(0))
