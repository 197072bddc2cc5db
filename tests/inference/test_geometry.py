"""Positions of feature maps on images: by hand, and against SciPy, for strides 8, 14 and 16."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.transforms import fit_square
from apanet_jax.inference.matching.geometry import (
    Grid,
    around,
    fitted_square,
    grid_of,
    label_shares,
    pixel_weights,
    square_label,
    upsample,
)
from apanet_jax.models import backbones

CONVOLUTIONS, PATCHES = Grid(65, 9, 8), Grid(70, 5, 14, 6.5)
GRIDS = pytest.mark.parametrize("grid", [CONVOLUTIONS, PATCHES, Grid(64, 8, 8), Grid(97, 7, 16)])


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite0", 64), ("efficientnet_lite0", 65), ("vgg16", 97)]
)
def test_the_grid_has_the_positions_of_the_backbone(name, size):
    module = backbones.create(name)
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    features, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert features.block4.shape[1:3] == (grid_of(name, size).positions,) * 2
    assert features.block5.shape[1:3] == features.block4.shape[1:3]


def test_patches_are_centred(monkeypatch):
    spec = backbones.spec("efficientnet_lite0")._replace(stride=14, patch=14)
    monkeypatch.setitem(backbones.BACKBONES, "patches", spec)
    assert grid_of("patches", 70) == PATCHES and grid_of("patches", 518).positions == 37
    assert grid_of("patches", 83) == PATCHES and grid_of("patches", 5).size == 14


@GRIDS
@pytest.mark.parametrize("image_size", [(33, 90), (200, 200), (90, 33), (3, 400)])
def test_values_between_positions_are_linear(grid, image_size):
    rows, columns = grid.inside(image_size)
    values = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    _, label = fit_square(
        np.zeros((*image_size, 3), np.uint8), np.zeros(image_size, np.uint8), grid.size, grid.stride
    )
    fitted = (label[:, 0] == 0).sum(), (label[0] == 0).sum()
    # The centre of a pixel, in the fitted image and then among the positions.
    coordinates = [
        np.clip(((np.arange(n) + 0.5) * f / n - 0.5 - grid.first) / grid.stride, 0, count - 1)
        for n, f, count in zip(image_size, fitted, (rows, columns), strict=True)
    ]
    expected = map_coordinates(values, np.meshgrid(*coordinates, indexing="ij"), order=1)
    np.testing.assert_allclose(upsample(values, image_size, grid), expected, atol=1e-5)


@GRIDS
def test_a_linear_ramp_stays_where_it_is(grid):
    """The value at a position is the coordinate of its centre; between them it is the pixel's."""
    ramp = grid.first + grid.stride * np.arange(grid.positions)
    inside = np.clip(np.arange(grid.size), ramp[0], ramp[-1])
    np.testing.assert_allclose(pixel_weights(grid) @ ramp, inside, rtol=1e-5)


@GRIDS
def test_each_position_has_the_share_of_the_square_round_its_centre(grid):
    label = np.random.default_rng(1).choice([0, 1, IGNORE], size=(grid.size,) * 2).astype(np.uint8)
    foreground, background = label_shares(label, grid)
    assert foreground.shape == (grid.positions,) * 2
    first = int(np.ceil(grid.first + grid.stride - grid.stride / 2))
    square = label[first : first + grid.stride, first : first + grid.stride]
    np.testing.assert_allclose(foreground[1, 1], (square == 1).mean(), rtol=1e-5)
    np.testing.assert_allclose(background[1, 1], (square == 0).mean(), rtol=1e-5)


@pytest.mark.parametrize("grid", [CONVOLUTIONS, PATCHES])
def test_no_pixel_is_lost_between_the_positions(grid):
    label = np.random.default_rng(1).choice([0, 1, IGNORE], size=(grid.size,) * 2).astype(np.uint8)
    for shares, value in zip(label_shares(label, grid), (1, 0), strict=True):
        pixels = grid.stride**2 * shares.sum()
        np.testing.assert_allclose(pixels, (label == value).sum(), rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([CONVOLUTIONS, PATCHES, Grid(64, 8, 8)]))
def test_the_smallest_object_has_a_position(data, grid):
    height, width = (data.draw(st.integers(1, 500)) for _ in range(2))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    label = np.zeros((height, width), np.uint8)
    label[row, column] = 1
    square = square_label(label, grid)
    centres = (grid.first + grid.stride * np.arange(grid.positions)).astype(int)
    assert (square[np.ix_(centres, centres)] == 1).any()
    marked = np.argwhere(square == 1).mean(0)
    fitted = grid.fitted((height, width))
    there = [(x + 0.5) * f / n for x, f, n in zip((row, column), fitted, label.shape, strict=True)]
    # Beyond the last position's centre its neighbourhood ends at the edge of the square.
    assert np.abs(marked - there).max() <= max(grid.stride, *(np.array(fitted) / label.shape) / 2)


def test_what_lies_on_a_position_is_resized_alone():
    label = np.zeros((130, 130), np.uint8)
    label[20:60, 30:100] = 1
    expected = fit_square(np.zeros((130, 130, 3), np.uint8), label, 65)[1]
    np.testing.assert_array_equal(square_label(label, CONVOLUTIONS), expected)


def test_a_label_without_foreground_has_none_in_the_square():
    label = np.zeros((40, 60), np.uint8)
    label[:5] = 255
    expected = np.full((CONVOLUTIONS.size,) * 2, 255, np.uint8)
    height, width = CONVOLUTIONS.fitted((40, 60))
    rows = ((np.arange(height) + 0.5) * 40 / height).astype(int)
    expected[:height, :width] = label[rows][:, :1]
    np.testing.assert_array_equal(square_label(label, CONVOLUTIONS), expected)


def test_a_thin_line_keeps_its_course():
    """Two pixels of 1488 are none at 65 pixels: the label to the nearest pixel can lose them."""
    label = np.zeros((1488, 1488), np.uint8)
    label[404:406, 100:1400] = 1
    square = square_label(label, CONVOLUTIONS)
    rows, columns = np.nonzero(square == 1)
    # Row 405 of 1488 lies on row 17.7 of 65, which is nearest to the position at 16.
    assert rows.min() == 15 and rows.max() == 17
    assert columns.min() <= 8 and columns.max() >= 55


@pytest.mark.parametrize(
    ("foreground", "seen"),
    [
        # 20 pixels and their margin of 5 on each side; wider than high, and at the image's edges.
        (np.s_[30:50, 40:60], np.s_[25:55, 35:65]),
        (np.s_[38:42, 40:60], np.s_[25:55, 35:65]),
        (np.s_[0:20, 70:80], np.s_[0:25, 60:80]),
        (np.s_[30, 40], np.s_[29:32, 39:42]),
    ],
)
def test_an_object_is_seen_with_its_surroundings_within_the_image(foreground, seen):
    square = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    label = np.full((100, 100), IGNORE, np.uint8)
    label[:60, :80] = 0
    label[foreground] = 1
    found, found_label = around(square, label, CONVOLUTIONS, 1.5)
    np.testing.assert_array_equal(found, fitted_square(square[seen], CONVOLUTIONS))
    np.testing.assert_array_equal(found_label, square_label(label[seen], CONVOLUTIONS))
    assert (found_label == 1).any()
