"""Close-ups of large images, beside functions that are known everywhere and plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apanet_jax.inference.matching.geometry import Grid, grid_of
from apanet_jax.inference.matching.presence import SupportAppearance
from apanet_jax.inference.multiscale.close_ups import (
    OBJECT_SHARE,
    Place,
    in_place,
    likenesses,
    marked_place,
    outstanding,
    places,
    seen,
    small_grid,
)
from apanet_jax.inference.multiscale.scales import LEAST_CLOSER, Scales
from apanet_jax.inference.multiscale.tiles import enlarged
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import GREEN, RED, ColourMatcher

GRIDS = st.sampled_from([Grid(65, 9, 8), Grid(64, 8, 8), Grid(70, 5, 14, 6.5)])


@given(GRIDS, st.integers(200, 400), st.integers(200, 400), st.floats(0, 1), st.floats(0, 1))
def test_a_linear_function_lies_where_it_does_in_the_image(grid, height, width, down, along):
    side = 80.0
    place = Place(down * (height - side), along * (width - side), side)
    pixels = (grid.first + grid.stride * np.arange(grid.positions) + 0.5) * side / grid.size
    values = (0.03 * (place.top + pixels)[:, None] - 0.02 * (place.left + pixels)).astype("f4")
    large = enlarged(grid, 6 * grid.size)
    (rows, columns), found = in_place(values, place, (height, width), grid, large)
    y, x = (
        (large.first + large.stride * np.arange(n) + 0.5) * (size / fitted)
        for n, size, fitted in zip(
            large.inside((height, width)), (height, width), large.fitted((height, width)),
            strict=True,
        )
    )  # fmt: skip
    assert np.all((y[rows] >= place.top) & (y[rows] < place.top + side))
    expected = 0.03 * np.clip(y[rows], *(place.top + pixels[[0, -1]]))[:, None]
    expected = expected - 0.02 * np.clip(x[columns], *(place.left + pixels[[0, -1]]))
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_a_place_is_seen_in_a_square_and_nothing_beyond_the_image():
    image = np.random.default_rng(0).integers(1, 255, (100, 120, 3), np.uint8)
    grid = Grid(40, 5, 8)
    np.testing.assert_array_equal(seen(image, Place(30, 50, 40), grid), image[30:70, 50:90])
    corner = seen(image, Place(-20, 100, 40), grid)
    np.testing.assert_array_equal(corner[20:, :20], image[:20, 100:])
    assert not corner[:20].any() and not corner[:, 20:].any()


@pytest.mark.parametrize(
    ("backbone", "size"), [("dinov2_vits14", 518), ("efficientnet_lite0", 385)]
)
def test_small_squares_have_half_the_positions_of_the_backbone(backbone, size):
    small = small_grid(grid_of(backbone, size))
    assert small == grid_of(backbone, small.size) and 0.48 < small.size / size < 0.53


def test_places_resemble_supports_by_what_they_do_not_have_in_common():
    rng = np.random.default_rng(0)
    positions, appearances = rng.normal(size=(6, 4)), rng.normal(size=(3, 4, 5, 4))
    supports = SupportAppearance(positions, np.full(6, 1 / 6), positions[:1])
    centred = appearances - appearances.mean((0, 1, 2))
    wanted = positions.mean(0) - appearances.mean((0, 1, 2))
    cosines = centred @ wanted / np.linalg.norm(centred, axis=-1) / np.linalg.norm(wanted)
    expected = np.quantile(cosines.reshape(3, -1), 0.97, axis=1)
    np.testing.assert_allclose(likenesses(appearances, supports), expected, rtol=1e-5)


@given(st.integers(50, 4000), st.integers(50, 4000))
def test_places_cover_the_image(height, width):
    covered = np.zeros((height, width), bool)
    for top, left, side in places((height, width)):
        assert side == pytest.approx(max(height, width) / 10)
        rows, columns = (slice(int(np.ceil(x)), int(x + side) + 1) for x in (top, left))
        covered[rows, columns] = True
    assert covered.all()


def test_a_place_stands_out_by_the_others_spread():
    others = np.random.default_rng(0).normal(3, 2, 40)
    found = np.insert(others, 7, 20)
    assert outstanding(found) == pytest.approx((20 - others.mean()) / others.std())


def test_what_is_marked_fills_the_next_close_up():
    grid, margins = Grid(256, 32, 8), np.full((32, 32), -1.0)
    assert marked_place(margins, 0.0, Place(1000, 2000, 400), grid) is None
    margins[10:14, 20:26] = 1
    top, left, side = marked_place(margins, 0.0, Place(1000, 2000, 400), grid)
    assert side == pytest.approx(6 * 8 * 400 / 256 / OBJECT_SHARE)
    assert top + side / 2 == pytest.approx(1000 + 11.5 * 8 * 400 / 256)
    assert left + side / 2 == pytest.approx(2000 + 22.5 * 8 * 400 / 256)
    assert marked_place(np.ones((32, 32)), 0.0, Place(0, 0, 400), grid) is None


def test_a_small_object_of_a_large_image_is_found_and_a_large_one_as_before():
    segmenter = Segmenter(ColourMatcher(), size=1024)
    support = np.full((300, 400, 3), 20, np.uint8)
    support[80:220, 100:240] = RED
    segmenter.fit([support], [(support == RED).all(-1)])
    large = np.full((3000, 4000, 3), 20, np.uint8)
    large[500:900, 300:700] = GREEN
    absent = large.copy()
    large[1800:1920, 2600:2720] = RED
    truth = (large == RED).all(-1)
    answer, without = segmenter.answers([large, absent])
    assert answer.found[0] and not without.found[0] and not without.mask(0).any()
    mask = answer.mask(0)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    large[200:2800, 1000:3600] = RED
    (found,) = segmenter.answers([large])
    segmenter._small_supports = None
    (whole,) = segmenter.answers([large])
    np.testing.assert_array_equal(found.margin(0), whole.margin(0))


def test_close_ups_are_asked_for_by_a_size_far_above_the_square():
    scales, least = Scales(Grid(256, 32, 8)), int(LEAST_CLOSER * 256)
    assert scales.closer_side((3000, 4000)) is None
    assert scales._replace(zoom=2.0).closer_side((3000, 4000)) is None
    assert scales._replace(size=least - 1).closer_side((3000, 4000)) is None
    asked = scales._replace(size=least)
    assert asked.closer_side((3000, 4000)) == asked.most_seen == 2048
    assert asked.closer_side((100, least - 1)) is None
    assert asked.closer_side((800, 1000)) == 1000
    assert asked.tiled_side((3000, 4000)) == least
