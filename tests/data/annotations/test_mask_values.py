"""What drawn masks mean: two levels with edges, ids, colours, cut-outs, and what is no mask."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from apanet_jax.data.annotations.mask_values import (
    label_of_alpha,
    label_of_colours,
    label_of_values,
)
from apanet_jax.runtime.errors import UserError

HEIGHT, WIDTH = 120, 160
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def disc(x, y, radius):
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


ONE = disc(70, 60, 35)
TWO, THREE = disc(40, 30, 20), disc(120, 80, 25)


def drawn(*levels, dtype=np.uint8):
    """Discs of these levels on black."""
    values = np.zeros((HEIGHT, WIDTH), dtype)
    for level, where in zip(levels, (TWO, THREE, disc(35, 95, 15)), strict=False):
        values[where] = level
    return values


def as_jpeg(values, quality):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "jpeg", quality=quality)
    return np.array(Image.open(buffer))


def agree(label, truth, share=0.01):
    assert set(np.unique(label)) <= {0, 1}
    assert (label.astype(bool) != truth).sum() <= share * truth.sum()


@pytest.mark.parametrize("top", [64, 128, 200, 254, 255])
@pytest.mark.parametrize("blur", [1, 3, 5, 7])
def test_soft_edges_are_cut_at_half(top, blur):
    values = cv2.GaussianBlur(np.uint8(top) * ONE.astype(np.uint8), (blur, blur), 0)
    agree(label_of_values(values, "it"), ONE)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_noise_of_jpeg_is_no_level(quality):
    agree(label_of_values(as_jpeg(np.uint8(255) * ONE, quality), "it"), ONE)


def test_masks_with_other_numbers():
    soft = cv2.GaussianBlur(ONE.astype(np.float32), (5, 5), 0)
    for values in (soft, soft * 255, soft * 65535, (soft * 65535).astype(np.uint16)):
        agree(label_of_values(values, "it"), ONE)
    np.testing.assert_array_equal(label_of_values(ONE, "it"), ONE)
    enlarged = np.array(Image.fromarray(np.uint8(255) * ONE[::4, ::4]).resize((WIDTH, HEIGHT)))
    agree(label_of_values(enlarged, "it"), ONE, 0.15)


def test_thin_lines_with_soft_edges_are_a_mask():
    fine = np.zeros((HEIGHT * 4, WIDTH * 4), np.uint8)
    for offset in range(0, 600, 120):
        cv2.line(fine, (offset, 0), (639, 479 - offset // 2), 255, 6)
    lines = cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(label_of_values(lines, "it"), lines > 127.5)


@pytest.mark.parametrize("level", [250, 254])
def test_nearly_white_is_white(level):
    values = drawn(level, 255)
    np.testing.assert_array_equal(label_of_values(values, "it"), TWO | THREE)
    values[0, 0] = 254
    assert label_of_values(values, "it")[0, 0] == 1


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(1, 249), min_size=2, max_size=3), st.sampled_from([1, 3, 5]))
def test_several_levels_that_cover_areas_are_never_one_mask(levels, blur):
    # With soft edges, levels near black cannot be told from what fades out.
    assume(blur == 1 or min(levels) > max(levels) / 8)
    values = cv2.GaussianBlur(drawn(*levels), (blur, blur), 0)
    with pytest.raises(UserError, match="ids|no mask"):
        label_of_values(values, "it")


@pytest.mark.parametrize(
    "levels", [(38, 147), (206, 210), (64, 128), (40, 90, 200), (128, 255), (85, 170, 255)]
)
def test_ids_are_told(levels):
    with pytest.raises(UserError, match=f"it holds the ids {', '.join(map(str, levels))}: which"):
        label_of_values(drawn(*levels), "it")
    if max(levels) <= 210:
        with pytest.raises(UserError):
            label_of_values(as_jpeg(drawn(*levels), 90), "it")
    with pytest.raises(UserError, match="it holds the ids 257, 1000"):
        label_of_values(drawn(257, 1000, dtype=np.uint16), "it")


def test_a_small_area_of_another_id_is_not_lost():
    values = np.uint8(255) * ONE.astype(np.uint8)
    values[2:5, 2:5] = 128
    with pytest.raises(UserError, match="ids 128, 255"):
        label_of_values(values, "it")


def test_an_id_with_a_border_of_255_is_no_black_and_white():
    values = np.where(ONE, 128, 0).astype(np.uint8)
    edge = cv2.dilate(values, np.ones((3, 3))) != cv2.erode(values, np.ones((3, 3)))
    with pytest.raises(UserError, match="ids|no mask"):
        label_of_values(np.where(edge, 255, values).astype(np.uint8), "it")


def photograph(seed):
    """Light that falls off, objects of all grays, noise: what a camera sees."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(20, 120) + rng.uniform(-60, 60) * X / WIDTH + rng.uniform(-60, 60) * Y / 90
    for _ in range(12):
        where = disc(rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), rng.uniform(5, 40))
        values = np.where(where, rng.uniform(0, 255) + rng.uniform(-1, 1) * (X - Y), values)
    values = cv2.GaussianBlur(values, (0, 0), 1) + rng.normal(0, 3, values.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_a_photograph_is_no_mask(seed):
    image = photograph(seed)
    for values in (image, as_jpeg(image, 80), image.astype(np.uint16) * 257):
        with pytest.raises(UserError, match="no mask|ids"):
            label_of_values(values, "it")
    white_ground = np.where(ONE, image, 255).astype(np.uint8)
    with pytest.raises(UserError, match="no mask|ids"):
        label_of_values(white_ground, "it")


def test_noise_and_ramps_are_no_masks():
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    ramp = np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    for values in (noise, ramp):
        with pytest.raises(UserError, match="no mask"):
            label_of_values(values, "it")


@pytest.mark.parametrize("values", [np.zeros((0, 4)), np.zeros(4), -np.ones((2, 2)), [[np.nan]]])
def test_what_has_no_gray_values_is_refused(values):
    with pytest.raises(UserError, match="no mask of numbers"):
        label_of_values(np.array(values), "it")


def colours(ground, *parts):
    values = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
    for where, colour in parts:
        values[where] = colour
    return values


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("colour", [(255, 0, 0), (30, 200, 90), (128, 0, 128)])
@pytest.mark.parametrize("blur", [1, 3, 5])
def test_one_colour_on_black_or_white(ground, colour, blur):
    values = cv2.GaussianBlur(colours(ground, (ONE, colour)), (blur, blur), 0)
    agree(label_of_colours(values, "it"), ONE)


def test_several_colours_are_told():
    for values, count in (
        (colours(0, (TWO, (255, 0, 0)), (THREE, (0, 255, 0))), 2),
        (colours(255, (TWO, (255, 0, 0)), (THREE, (0, 0, 0))), 1),
        (colours(0, (TWO, (255, 0, 0)), (THREE, (120, 0, 0))), 2),
        (colours(0, (TWO, (200, 10, 10)), (THREE, (200, 40, 10))), 2),
    ):
        with pytest.raises(UserError, match=f"it holds {count} colours"):
            label_of_colours(values, "it")


def test_transparency_counts_where_a_good_part_is_transparent():
    opaque = np.full((HEIGHT, WIDTH), 255, np.uint8)
    photo = np.stack([photograph(0)] * 3, -1)
    white = colours(0, (ONE, 255))
    cut = np.where(ONE, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(label_of_alpha(cut, photo), ONE)
    np.testing.assert_array_equal(label_of_alpha(cut // 2, photo), ONE)
    soft = cv2.GaussianBlur(cut, (5, 5), 0)
    agree(label_of_alpha(soft, photo), ONE)
    for alpha in (opaque, np.where(TWO, 254, 255), np.where(X + Y == 0, 0, 255)):
        assert label_of_alpha(alpha.astype(np.uint8), white) is None
    # Black and white on a transparent ground: the white of it.
    ring = disc(70, 60, 50)
    label = label_of_alpha(np.where(ring, 255, 0).astype(np.uint8), white)
    np.testing.assert_array_equal(label, ONE)
