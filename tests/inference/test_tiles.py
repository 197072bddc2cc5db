"""Tiles of large images, beside functions that are known everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apanet_jax.inference import segmenter as segmenters
from apanet_jax.inference.matching.geometry import Grid, fitted_square
from apanet_jax.inference.multiscale.scales import OBJECT_SHARE, Scales
from apanet_jax.inference.multiscale.tiles import (
    at_positions,
    cut,
    enlarged,
    joined,
    tile_around,
    tiles_of,
)
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import UserError
from tests.inference.test_close_ups import ColourSquares
from tests.inference.test_segmenter import RED, ColourMatcher

GRIDS = st.sampled_from([Grid(65, 9, 8), Grid(64, 8, 8), Grid(70, 5, 14, 6.5)])
SIDES = st.integers(30, 400)


def pixels_of(grid, positions):
    """Where positions are centred, in pixels of the square."""
    return grid.first + grid.stride * np.arange(positions)


def plane(grid, shape, tile=(0, 0)):
    """A linear function of a square's pixels, at the positions of a tile."""
    rows, columns = (
        pixels_of(grid, n) + grid.stride * first for n, first in zip(shape, tile, strict=True)
    )
    return (0.5 + 0.03 * rows[:, None] - 0.02 * columns).astype(np.float32)


@given(GRIDS, SIDES, SIDES, st.integers(2, 6))
def test_tiles_of_a_linear_function_join_to_the_function(grid, height, width, zoom):
    large = enlarged(grid, zoom * grid.size)
    shape = large.inside((height, width))
    tiles = tiles_of((height, width), large, grid)
    square = (grid.positions,) * 2
    values = [plane(grid, square, tile)[None] for tile in tiles]
    found = joined(tiles, values, shape)
    np.testing.assert_allclose(found[0], plane(grid, shape), atol=1e-4)
    beyond = [max(t[axis] for t in tiles) + grid.positions - shape[axis] for axis in (0, 1)]
    assert all(n == 0 or side < grid.positions for n, side in zip(beyond, shape, strict=True))


@given(GRIDS, SIDES, SIDES)
def test_one_tile_is_the_whole(grid, height, width):
    large = enlarged(grid, grid.size)
    assert large == grid
    tiles = tiles_of((height, width), large, grid)
    assert tiles == [(0, 0)]
    values = np.random.default_rng(0).normal(size=(2, grid.positions, grid.positions))
    rows, columns = shape = grid.inside((height, width))
    np.testing.assert_allclose(joined(tiles, [values], shape), values[:, :rows, :columns], 1e-5)
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    square = fitted_square(image, large)
    np.testing.assert_array_equal(cut(square, tiles[0], grid), fitted_square(image, grid))


@given(GRIDS, SIDES, SIDES, st.integers(2, 5))
def test_values_of_the_whole_lie_where_those_of_tiles_do(grid, height, width, zoom):
    size, large = (height, width), enlarged(grid, zoom * grid.size)
    values = plane(grid, grid.inside(size))
    found = at_positions(values, size, grid, large)
    # A pixel of the large square, in pixels of the small one.
    rows, columns = (
        np.clip(
            (pixels_of(large, count) + 0.5) * small / big - 0.5,
            grid.first,
            grid.first + grid.stride * (inside - 1),
        )
        for count, small, big, inside in zip(
            large.inside(size), grid.fitted(size), large.fitted(size), values.shape, strict=True
        )
    )
    expected = 0.5 + 0.03 * rows[:, None] - 0.02 * columns
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_large_images_are_reduced_by_the_mean_of_their_pixels():
    grid = Grid(64, 8, 8)
    image = np.random.default_rng(0).integers(0, 256, (512, 256, 3), np.uint8)
    blocks = image.reshape(64, 8, 32, 8, 3).mean((1, 3))
    np.testing.assert_allclose(fitted_square(image, grid)[:, :32], blocks, atol=0.51)
    assert not fitted_square(image, grid)[:, 32:].any()


def test_the_tile_around_an_object_has_it_in_its_middle():
    grid = Grid(64, 8, 8)
    large, label = enlarged(grid, 256), np.zeros((256, 256), np.uint8)
    label[100:110, 120:150], label[10:12, 10:12] = 1, 1
    tile = tile_around(label, large, grid, (256, 256))
    rows, columns = np.nonzero(cut(label, tile, grid))
    assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 31.5), abs=8)
    corner = np.zeros_like(label)
    corner[:4, 250:] = 1
    assert tile_around(corner, large, grid, (256, 256)) == (0, 24)


def photograph(size, at, side):
    """Dark noise with a red square in it."""
    noise = np.random.default_rng(0).integers(0, 60, (*size, 3)).astype(np.uint8)
    mask = np.zeros(size, bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    noise[mask] = RED
    return noise, mask


def test_a_small_object_in_a_large_image_is_found_in_tiles(monkeypatch):
    monkeypatch.setattr(segmenters, "load_small_squares", ColourSquares)
    support, query = (
        photograph((256, 256), (60, 60), 120),
        photograph((1536, 2048), (900, 1300), 61),
    )
    in_tiles, whole = (
        Segmenter(ColourMatcher(), size=size).fit([support[0]], [support[1]])
        for size in (1024, 256)
    )
    (answer,), (missed,) = in_tiles.answers([query[0]]), whole.answers([query[0]])
    assert answer.found[0] and not missed.found[0]
    found = answer.mask(0)
    assert (found & query[1]).sum() / (found | query[1]).sum() > 0.5
    (absent,) = in_tiles.answers([photograph((1536, 2048), (0, 0), 0)[0]])
    assert not absent.found[0] and not absent.mask(0).any()


def test_an_image_that_is_narrower_than_a_tile_is_seen_in_tiles(monkeypatch):
    monkeypatch.setattr(segmenters, "load_small_squares", ColourSquares)
    support, query = (
        photograph((256, 256), (60, 60), 120),
        photograph((300, 2048), (100, 1300), 61),
    )
    segmenter = Segmenter(ColourMatcher(), size=1024).fit([support[0]], [support[1]])
    (mask,) = segmenter.predict([query[0]])
    assert (mask & query[1]).sum() / (mask | query[1]).sum() > 0.5


def test_images_that_are_not_large_are_seen_as_before_whatever_the_size():
    support, query = photograph((200, 300), (60, 60), 80), photograph((300, 350), (100, 200), 90)
    usual, larger = (
        Segmenter(ColourMatcher(), size=size).fit([support[0]], [support[1]])
        for size in (None, 2048)
    )
    (expected,), (found,) = (x.predict_margins([query[0]]) for x in (usual, larger))
    np.testing.assert_array_equal(found, expected)


def test_a_size_is_that_of_the_tiles_and_no_image_is_enlarged():
    scales = Scales(Grid(256, 32, 8))
    assert scales.tiled_side((1000, 700)) is None
    assert scales.tiled_side((3000, 4000)) is None
    assert scales._replace(size=512).tiled_side((3000, 4000)) == 512
    assert scales._replace(size=4096).tiled_side((1500, 2000)) == 2000
    assert scales._replace(size=256).tiled_side((3000, 4000)) is None
    assert scales._replace(zoom=2.0).tiled_side((700, 1000)) == 512
    # No more of an image is decoded than that, but for close-ups.
    asked = [scales._replace(zoom=z, size=s).most_seen for z, s in ((1, 256), (2, 256), (1, 512))]
    assert asked == [256, 256, 512] and scales.most_seen == 8 * 256


def test_a_supports_small_object_is_seen_alone_and_queries_at_its_scale():
    image, mask = photograph((900, 800), (500, 400), 90)
    scales = Scales(Grid(256, 32, 8))
    view = scales.support(scales.view(image, mask.astype(np.uint8)))
    assert view.zoom == pytest.approx(OBJECT_SHARE / (90 / 900), rel=0.05)
    assert (view.label == 1).any(0).sum() / 256 == pytest.approx(OBJECT_SHARE, abs=0.03)
    reds = (view.square == RED).all(-1)
    assert (reds == (view.label == 1)).mean() > 0.98
    segmenter = Segmenter(ColourMatcher()).fit([image], [mask])
    assert segmenter.scales.zoom == view.zoom
    large = photograph((900, 800), (500, 400), 400)
    assert Segmenter(ColourMatcher()).fit([large[0]], [large[1]]).scales.zoom == 1.0


def test_masks_of_one_large_image_are_joined():
    image, first = photograph((900, 800), (500, 400), 90)
    second = np.roll(first, (-200, -300), (0, 1))
    image[second] = RED
    segmenter = Segmenter(ColourMatcher()).fit([image] * 2, [first, second])
    both = Segmenter(ColourMatcher()).fit([image], [first | second])
    np.testing.assert_array_equal(*(x.predict_margins([image])[0] for x in (segmenter, both)))
    with pytest.raises(UserError, match="support 2 is given twice"):
        Segmenter(ColourMatcher()).fit([image] * 2, [first] * 2)
