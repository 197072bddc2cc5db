"""Transforms against what they are said to do, pixel by pixel where that is possible."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.data.transforms import (
    MEAN_COLOUR,
    Augmentation,
    augment,
    binary_label,
    fit_square,
)

OFF = Augmentation(
    size=40,
    scale=(1.0, 1.0),
    rotation=0.0,
    rotation_probability=0.0,
    blur_probability=0.0,
    mirror_probability=0.0,
    crop=False,
)


def picture(height, width, seed=0):
    """A picture whose colour tells its label: blocks of 8 pixels, red is 80 times the label."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (-(-height // 8), -(-width // 8))).astype(np.uint8)
    label = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = np.stack([label * 80, np.full_like(label, 7), np.full_like(label, 200)], -1)
    return image, np.ascontiguousarray(label)


def test_nothing_switched_on_changes_nothing():
    image, label = picture(40, 40)
    new_image, new_label = augment(image, label, np.random.default_rng(0), OFF)
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_label, label)


def test_small_pictures_are_padded_evenly():
    image, label = picture(30, 21)
    new_image, new_label = augment(image, label, np.random.default_rng(0), OFF)
    np.testing.assert_array_equal(new_image[5:35, 9:30], image)
    np.testing.assert_array_equal(new_label[5:35, 9:30], label)
    outside = np.ones((40, 40), bool)
    outside[5:35, 9:30] = False
    assert (new_label[outside] == 255).all() and (new_image[outside] == MEAN_COLOUR).all()


def test_mirror_swaps_left_and_right():
    image, label = picture(40, 40)
    settings_ = dataclasses.replace(OFF, mirror_probability=1.0)
    new_image, new_label = augment(image, label, np.random.default_rng(0), settings_)
    np.testing.assert_array_equal(new_image, image[:, ::-1])
    np.testing.assert_array_equal(new_label, label[:, ::-1])


def test_blur_is_a_5x5_gaussian_of_the_picture_alone():
    image, label = picture(40, 40)
    settings_ = dataclasses.replace(OFF, blur_probability=1.0)
    new_image, new_label = augment(image, label, np.random.default_rng(0), settings_)
    np.testing.assert_array_equal(new_image, cv2.GaussianBlur(image, (5, 5), 0))
    np.testing.assert_array_equal(new_label, label)


def test_rotation_turns_about_the_centre_and_pads():
    image, label = picture(41, 41)
    label = np.maximum(label, 1)
    settings_ = dataclasses.replace(OFF, size=41, rotation=30.0, rotation_probability=1.0)
    new_image, new_label = augment(image, label, np.random.default_rng(1), settings_)
    np.testing.assert_array_equal(new_image[20, 20], image[20, 20])
    assert (new_label == 255).any() and (new_image[new_label == 255][0] == MEAN_COLOUR).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 90), st.integers(8, 90), st.sampled_from([0, 30, 60]))
def test_picture_and_label_stay_aligned(seed, height, width, longer_side):
    image, label = picture(height, width, seed)
    settings_ = Augmentation(size=48, longer_side=longer_side, blur_probability=0.0)
    new_image, new_label = augment(image, label, np.random.default_rng(seed), settings_)
    assert new_image.shape == (48, 48, 3) and new_label.shape == (48, 48)
    assert set(np.unique(new_label)) <= {0, 1, 2, 3, 255}
    # Away from block borders, where bilinear and nearest sampling may differ, red tells the label.
    # Enlarged, a picture blends over as many pixels as it was enlarged times.
    enlarged = max(1.0, 1.1 * longer_side / max(height, width))
    window = np.ones([5 + 2 * math.ceil(enlarged)] * 2)
    inner = new_label.astype(int)
    same = cv2.erode((new_label != 255).astype(np.uint8), window, borderValue=0)
    flat = (cv2.dilate(new_label, window) == cv2.erode(new_label, window)) & (same == 1)
    assert np.abs(new_image[..., 0].astype(int) - 80 * inner)[flat].max(initial=0) <= 8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_crop_keeps_the_foreground_where_it_can(seed):
    rng = np.random.default_rng(seed)
    label = np.zeros((80, 90), np.uint8)
    # Where half of all crops keep it: in a corner, 31 of them may all miss it.
    top, left = rng.integers(10, 50), rng.integers(15, 55)
    label[top : top + 20, left : left + 20] = 1
    image = np.zeros((80, 90, 3), np.uint8)
    _, cropped = augment(image, label, rng, dataclasses.replace(OFF, size=64, crop=True))
    assert (cropped == 1).sum() >= 0.85 * 400


def test_switching_one_transform_off_leaves_the_others_alone():
    image, label = picture(60, 60)
    both = Augmentation(size=40, mirror_probability=1.0, blur_probability=1.0)
    unblurred = dataclasses.replace(both, blur_probability=0.0)
    labels = [augment(image, label, np.random.default_rng(3), s)[1] for s in (both, unblurred)]
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (375, 500, 473, (352, 472)),
        (500, 333, 473, (472, 312)),
        (333, 333, 225, (224, 224)),
        (250, 333, 225, (168, 224)),
        (10, 400, 225, (8, 224)),
        (225, 225, 225, (224, 224)),
    ],
)
def test_test_pictures_fit_the_square_in_multiples_of_8(height, width, size, expected):
    image, label = picture(height, width)
    image = np.maximum(image, 1)
    square, square_label = fit_square(image, label, size)
    assert square.shape == (size, size, 3)
    h, w = expected
    assert (square[:h, :w].sum(-1) > 0).all() and not square[h:].any() and not square[:, w:].any()
    assert (square_label[h:] == 255).all() and (square_label[:, w:] == 255).all()
    np.testing.assert_array_equal(
        square_label[:h, :w], cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST)
    )


def test_binary_label():
    label = np.array([[0, 1, 2], [2, 255, 3]], np.uint8)
    np.testing.assert_array_equal(binary_label(label, 2), [[0, 0, 1], [1, 255, 0]])
    assert binary_label(label, 255).max() == 255
