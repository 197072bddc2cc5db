"""Close-ups of large images, beside functions that are known everywhere and plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apanet_jax.inference import segmenter as segmenters
from apanet_jax.inference.matching.geometry import Grid, grid_of
from apanet_jax.inference.multiscale import close_ups
from apanet_jax.inference.multiscale.close_ups import (
    CLOSER,
    LEAST_SIDE,
    OBJECT_SHARE,
    OUTSTANDING,
    OVERRULING,
    SURE,
    Likeness,
    Outstanding,
    Place,
    SupportAppearance,
    closer_parts,
    in_place,
    marked_place,
    places,
    presence,
    seen,
    support_appearance,
    widened,
)
from apanet_jax.inference.multiscale.scales import LEAST_CLOSER, Scales
from apanet_jax.inference.multiscale.small_squares import load_small_squares
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


def test_supports_count_alike_and_an_object_smaller_than_a_position_counts():
    appearances = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    whole, small = np.ones((4, 3)), np.zeros((4, 3))
    small[0, 0] = 0.2
    supports = support_appearance(appearances, [whole, small])
    assert supports.weights == pytest.approx([1 / 24] * 12 + [1 / 6] * 3)
    np.testing.assert_array_equal(supports.positions[12], appearances[1][0, 0])


def test_squares_resemble_supports_by_what_they_do_not_have_in_common():
    rng = np.random.default_rng(0)
    positions, appearances = rng.normal(size=(6, 4)), rng.normal(size=(3, 4, 5, 4))
    weights = rng.dirichlet(np.ones(6))
    supports, mean = SupportAppearance(positions, weights), appearances.mean((0, 1, 2))
    (alike, covered), found = Likeness(supports, mean)(appearances)
    centred, wanted = (appearances - mean).reshape(3, -1, 4), weights @ positions - mean
    norms = np.linalg.norm(centred, axis=-1)
    cosines = centred @ wanted / norms / np.linalg.norm(wanted)
    np.testing.assert_allclose(found.reshape(3, -1), cosines, rtol=1e-5)
    np.testing.assert_allclose(alike, np.quantile(cosines, 0.97, axis=1), rtol=1e-5)
    left = (positions - mean) / np.linalg.norm(positions - mean, axis=1, keepdims=True)
    pairs = np.einsum("nxc,pc->nxp", centred / norms[..., None], left)
    np.testing.assert_allclose(covered, pairs.max(1) @ weights, rtol=1e-5)


def test_closer_parts_lie_around_what_is_most_alike():
    grid, cosines = grid_of("efficientnet_lite0", 193), np.zeros((25, 25))
    cosines[5, 20] = 1
    parts = closer_parts(cosines, Place(1000, 2000, 386), grid, (1200, 2400))
    assert [part.side for part in parts] == [386 * share for share in CLOSER]
    for top, left, side in parts:
        assert abs(top + side / 2 - (1000 + 5 * 8 * 2)) < side / 2
        assert abs(left + side / 2 - (2000 + 20 * 8 * 2)) < side / 2
    at_the_edge = closer_parts(cosines, Place(1000, 2000, 386), grid, (1100, 2400))
    assert all(part.top + part.side <= 1100 for part in at_the_edge)
    assert widened(Place(10, 20, 30), 2) == Place(-5, 5, 60)


def test_presence_is_even_where_a_square_just_stands_out():
    assert presence(OUTSTANDING) == 0.5 and presence(OUTSTANDING + 2) == pytest.approx(0.880797)


@pytest.mark.slow
def test_small_squares_are_embedded_in_batches_of_one_size():
    squares = load_small_squares()
    images = np.random.default_rng(0).integers(0, 256, (13, 193, 193, 3), np.uint8)
    found = squares.appearances(list(images))
    assert found.shape == (13, squares.grid.positions, squares.grid.positions, 112)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(squares.appearances([images[12]])[0], found[12], atol=1e-4)


@given(st.integers(50, 4000), st.integers(50, 4000))
def test_places_cover_the_image(height, width):
    covered = np.zeros((height, width), bool)
    for top, left, side in places((height, width)):
        assert side == pytest.approx(max(height, width) / 10)
        rows, columns = (slice(int(np.ceil(x)), int(x + side) + 1) for x in (top, left))
        covered[rows, columns] = True
    assert covered.all()


def test_what_is_marked_fills_the_next_close_up():
    grid, margins = Grid(256, 32, 8), np.full((32, 32), -1.0)
    assert marked_place(margins, 0.0, Place(1000, 2000, 400), grid) is None
    margins[10:14, 20:26] = 1
    top, left, side = marked_place(margins, 0.0, Place(1000, 2000, 400), grid)
    assert side == pytest.approx(6 * 8 * 400 / 256 / OBJECT_SHARE)
    assert top + side / 2 == pytest.approx(1000 + 11.5 * 8 * 400 / 256)
    assert left + side / 2 == pytest.approx(2000 + 22.5 * 8 * 400 / 256)
    assert marked_place(np.ones((32, 32)), 0.0, Place(0, 0, 400), grid) is None


class ColourSquares:
    """Small squares whose features are their colours."""

    grid = Grid(129, 17, 8)

    def appearances(self, squares):
        return np.stack(squares)[:, ::8, ::8].astype(np.float32) / 255


@pytest.fixture
def colours(monkeypatch):
    """A segmenter of colours that has learned red."""
    monkeypatch.setattr(segmenters, "load_small_squares", ColourSquares)

    def fitted(size=None):
        support = np.full((300, 400, 3), 20, np.uint8)
        support[80:220, 100:240] = RED
        return Segmenter(ColourMatcher(), size=size).fit([support], [(support == RED).all(-1)])

    return fitted


def large_image():
    """An image of 2.9 megapixels with a green square, and one with a red one of 3 % besides."""
    absent = np.full((1460, 1960, 3), 20, np.uint8)
    absent[200:400, 100:300] = GREEN
    shows = absent.copy()
    shows[900:959, 1300:1359] = RED
    return shows, absent


@pytest.mark.parametrize("size", [None, 1024])
def test_a_small_object_of_a_large_image_is_found(colours, size):
    shows, absent = large_image()
    truth = (shows == RED).all(-1)
    answer, without = colours(size).answers([shows, absent])
    assert answer.found[0] and not without.found[0] and not without.mask(0).any()
    mask = answer.mask(0)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_a_size_of_the_square_keeps_its_promise(colours):
    shows, _ = large_image()
    (answer,) = colours(256).answers([shows])
    assert not answer.found[0]


def test_what_is_found_as_a_whole_stays_as_it_is(colours, monkeypatch):
    shows, _ = large_image()
    shows[100:1400, 500:1900] = RED
    segmenter = colours()
    (found,) = segmenter.answers([shows])
    monkeypatch.setattr(Scales, "closer_side", lambda self, size: None)
    (whole,) = segmenter.answers([shows])
    assert found.found[0]
    np.testing.assert_array_equal(found.margin(0), whole.margin(0))
    np.testing.assert_array_equal(found.mask(0), whole.mask(0))
    np.testing.assert_array_equal(found.scores, whole.scores)


@pytest.mark.parametrize("by", [OVERRULING - 0.1, OVERRULING + 0.1])
def test_what_is_found_for_less_than_sure_is_overruled_by_what_stands_out_more(
    colours, monkeypatch, by
):
    shows, _ = large_image()
    shows[100:500, 500:1100] = RED
    segmenter = colours()
    monkeypatch.setattr(
        close_ups, "most_alike", lambda *given: [Outstanding(Place(830.0, 1230.0, 196.0), by)]
    )
    (closer,) = segmenter.answers([shows])
    monkeypatch.setattr(Scales, "closer_side", lambda self, size: None)
    (whole,) = segmenter.answers([shows])
    assert whole.found[0] and whole.scores[0] < SURE
    mask, before = closer.mask(0), whole.mask(0)
    assert before[200:400, 600:1000].mean() > 0.9
    if by < OVERRULING:
        np.testing.assert_array_equal(mask, before)
    else:
        assert not mask[200:400, 600:1000].any() and mask[905:950, 1305:1350].mean() > 0.9


def test_a_class_of_which_a_close_up_marks_nothing_stays_as_it_is(colours, monkeypatch):
    shows, _ = large_image()
    segmenter = colours()
    elsewhere = [Outstanding(Place(1000.0, 200.0, 196.0), 9.0)]
    monkeypatch.setattr(close_ups, "most_alike", lambda *given: elsewhere)
    (closer,) = segmenter.answers([shows])
    monkeypatch.setattr(Scales, "closer_side", lambda self, size: None)
    (whole,) = segmenter.answers([shows])
    assert not closer.found[0]
    np.testing.assert_array_equal(closer.margin(0), whole.margin(0))


def test_a_class_that_is_found_as_a_whole_stays_as_it_is_beside_one_that_is_not(
    colours, monkeypatch
):
    shows, _ = large_image()
    shows[100:400, 500:900] = GREEN
    segmenter = colours()
    support = np.full((300, 400, 3), 20, np.uint8)
    support[80:220, 100:240] = RED
    other = np.where(support == RED, np.array(GREEN, np.uint8), support)
    masks = [(support == RED).all(-1)] * 2
    segmenter.fit([support, other], masks, classes=["red", "green"])
    (closer,) = segmenter.answers([shows])
    monkeypatch.setattr(Scales, "closer_side", lambda self, size: None)
    (whole,) = segmenter.answers([shows])
    assert closer.found.all() and whole.found.tolist() == [False, True]
    np.testing.assert_array_equal(closer.margin(1), whole.margin(1))
    np.testing.assert_array_equal(closer.mask(1), whole.mask(1))
    labels = closer.labels()
    assert (labels[905:950, 1305:1350] == 1).mean() > 0.9


def test_close_ups_are_of_large_images_or_asked_for_by_a_size_far_above_the_square():
    scales, least = Scales(Grid(256, 32, 8)), int(LEAST_CLOSER * 256)
    assert scales.closer_side((3000, 4000)) == scales.most_seen == 2048
    assert scales.closer_side((1000, LEAST_SIDE)) == LEAST_SIDE
    assert scales.closer_side((1000, LEAST_SIDE - 1)) is None
    assert scales._replace(size=256).closer_side((3000, 4000)) is None
    assert scales._replace(size=least - 1).closer_side((3000, 4000)) is None
    asked = scales._replace(size=least)
    assert asked.closer_side((3000, 4000)) == asked.most_seen == 2048
    assert asked.closer_side((100, least - 1)) is None
    assert asked.closer_side((800, 1000)) == 1000
    assert asked.tiled_side((3000, 4000)) == least
