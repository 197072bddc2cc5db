"""Looks for classes in an image: as a whole, and in tiles or close-ups where `scales` says so."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference import close_ups
from apanet_jax.inference.close_ups import Place, SmallSupports
from apanet_jax.inference.geometry import Grid, PositionMap
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.presence import (
    Appearance,
    Decision,
    SupportAppearance,
    likeness,
    peak,
    ranks,
)
from apanet_jax.inference.scales import Scales
from apanet_jax.inference.tiles import (
    at_positions,
    cut,
    enlarged,
    fitted_square,
    joined,
    tiles_of,
)

WHOLE_SHARE = 0.6
"""Of the whole image in the margins of one that is seen in tiles too: in a tile, much resembles an
object that the whole shows to be something else."""

LEAST_PRESENCE = 0.0
"""Log-odds that a close-up shows a class, above which it may take the place of the whole."""
OUTSIDE = 2.0
"""Log-odds against a class outside of the close-up in which it was found."""

Image = UInt8[np.ndarray, "height width 3"]
Margins = Float[np.ndarray, "classes rows columns"]


class LearnedClass(NamedTuple):
    """What was learned of a class.

    Attributes:
      learned: by the matcher.
      appearance: of the class in its supports.
      decision: how its margins become an answer.
    """

    learned: Any
    appearance: SupportAppearance
    decision: Decision


class Found(NamedTuple):
    """What was found in an image.

    Attributes:
      margins: of each class, at the positions of `grid` that are centred on the image.
      peaks: of each class, in the view in which it is most likely; see `presence`.
      likenesses: likewise.
      ranks: of each class, see `presence.ranks`; None: there is one class alone.
      grid: of the square that the image was fitted into.
    """

    margins: Sequence[PositionMap]
    peaks: Float[np.ndarray, " classes"]
    likenesses: Float[np.ndarray, " classes"]
    ranks: Margins | None
    grid: Grid


class _View(NamedTuple):
    """What was found in one square; the first four fields are those of `Found`.

    Attributes:
      appearance: see `Matcher.appearance`, at the positions that count.
    """

    margins: Margins
    peaks: Float[np.ndarray, " classes"]
    likenesses: Float[np.ndarray, " classes"]
    ranks: Margins | None
    appearance: Appearance


def search(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    scales: Scales,
    image: Image,
    size: tuple[int, int],
    small: Callable[[], Sequence[SmallSupports]] | None = None,
) -> Found:
    """Looks for classes in an image.

    Args:
      matcher: which learned the classes.
      classes: to look for.
      scales: at which the image is looked at.
      image: RGB; it may be smaller than `size`.
      size: height and width of the image in its file.
      small: gives each class's small supports, where close-ups need them; None: there are none.
    """
    grid = matcher.grid
    whole = _view(matcher, classes, fitted_square(image, grid), grid.inside(size))
    side = scales.tiled_side(size)
    if side is None:
        closer = small and scales.closer_side(size)
        if closer:
            return _closer(matcher, classes, whole, image, size, enlarged(grid, closer), small())
        return Found(*whole[:4], grid)
    large = enlarged(grid, side)
    shape, square, tiles = (
        large.inside(size),
        fitted_square(image, large),
        tiles_of(size, large, grid),
    )
    inside = min(shape[0], grid.positions), min(shape[1], grid.positions)
    views = [_view(matcher, classes, cut(square, tile, grid), inside) for tile in tiles]

    def both(of_whole: Margins, of_views: Sequence[Margins]) -> Margins:
        at_large = np.stack([at_positions(x, size, grid, large) for x in of_whole])
        return WHOLE_SHARE * at_large + (1 - WHOLE_SHARE) * joined(tiles, of_views, shape)

    measures = _most_present([whole, *views], [x.decision for x in classes])
    margins, compared = both(whole.margins, [x.margins for x in views]), None
    if whole.ranks is not None:
        compared = both(whole.ranks, [x.ranks for x in views])
    return Found(margins, *measures, compared, large)


def _closer(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    whole: _View,
    image: Image,
    size: tuple[int, int],
    large: Grid,
    small: Sequence[SmallSupports],
) -> Found:
    """Returns what is found with a close-up of the place that resembles the supports most.

    A class that is found there, and is more likely there than in the whole, is marked there alone.
    Of the others the whole decides.
    """
    grid, shape = matcher.grid, image.shape[:2]
    decisions = [x.decision for x in classes]
    (index, place), view = _best_place(matcher, whole, image, small), None
    while place is not None:
        square = close_ups.seen(image, place, grid)
        closer = _view(matcher, classes, square, (grid.positions,) * 2)
        last = view is not None
        view, chosen = closer, place
        place = close_ups.marked_place(
            closer.margins[index], decisions[index].threshold, chosen, grid
        )
        if last:
            break
    pairs = [
        [decision.log_odds(x.peaks[n], x.likenesses[n]) for x in (whole, view)]
        for n, decision in enumerate(decisions)
    ]
    more = np.array([of_view > max(of_whole, LEAST_PRESENCE) for of_whole, of_view in pairs])
    if not more.any():
        return Found(*whole[:4], grid)
    factor = size[0] / shape[0]
    in_size = Place(*(x * factor for x in chosen))

    def both(of_whole: Margins, of_view: Margins, outside: Sequence[float]) -> Margins:
        at_large = np.stack([at_positions(x, size, grid, large) for x in of_whole])
        for n, values in enumerate(at_large):
            if more[n]:
                window, inside = close_ups.in_place(of_view[n], in_size, size, grid, large)
                np.minimum(values, outside[n], out=values)
                values[window] = inside
        return at_large

    margins = both(
        whole.margins, view.margins, [x.threshold - OUTSIDE * x.scale for x in decisions]
    )
    compared = None
    if whole.ranks is not None:
        compared = both(whole.ranks, view.ranks, [np.inf] * len(classes))
    peaks, likenesses = (
        np.where(more, getattr(view, name), getattr(whole, name))
        for name in ("peaks", "likenesses")
    )
    return Found(margins, peaks, likenesses, compared, large)


def _best_place(
    matcher: Matcher, whole: _View, image: Image, small: Sequence[SmallSupports]
) -> tuple[int, Place]:
    """Returns the place that resembles a class's supports most, and which class that is."""
    grid, shape = close_ups.small_grid(matcher.grid), image.shape[:2]
    places = close_ups.places(whole.appearance, small, shape, matcher.grid)
    squares = [close_ups.seen(image, place, grid) for place in places]
    appearances = [matcher.appearance(matcher.embed(square)) for square in squares]
    found = np.stack([close_ups.likenesses(appearances, x.small) for x in small])
    index, chosen = np.unravel_index(found.argmax(), found.shape)
    return int(index), places[chosen]


def _view(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    square: UInt8[np.ndarray, "size size 3"],
    inside: tuple[int, int],
) -> _View:
    """Returns what is found in a square, of whose positions so many rows and columns count."""
    window = np.s_[: inside[0], : inside[1]]
    features = matcher.embed(square)
    margins = [np.asarray(matcher.margins(features, x.learned))[window] for x in classes]
    margins = [x.astype(np.float32) for x in margins]
    appearance = matcher.appearance(features)[window]
    likenesses = [
        likeness(of_class.appearance, appearance, x, of_class.decision.threshold)
        for of_class, x in zip(classes, margins, strict=True)
    ]
    compared = None
    if len(classes) > 1:
        pairs = zip(classes, likenesses, strict=True)
        compared = np.stack([ranks(x.appearance, appearance, y) for x, y in pairs])
    peaks = np.array([peak(x) for x in margins])
    return _View(np.stack(margins), peaks, np.array(likenesses), compared, appearance)


def _most_present(
    views: Sequence[_View], decisions: Sequence[Decision]
) -> tuple[Float[np.ndarray, " classes"], Float[np.ndarray, " classes"]]:
    """Returns the peak and the likeness of each class in the view in which it is most likely."""
    chosen = []
    for index, decision in enumerate(decisions):
        pairs = [(float(x.peaks[index]), float(x.likenesses[index])) for x in views]
        chosen.append(max(pairs, key=lambda pair: decision.presence(*pair)))
    peaks, likenesses = np.array(chosen).T
    return peaks, likenesses
