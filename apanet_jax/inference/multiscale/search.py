"""Looks for classes in an image: as a whole, and in tiles where `scales` says so, and close up."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import Grid, PositionMap
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.presence import (
    Decision,
    SupportAppearance,
    likeness,
    peak,
    ranks,
)
from apanet_jax.inference.multiscale import close_ups
from apanet_jax.inference.multiscale.close_ups import Place
from apanet_jax.inference.multiscale.scales import Scales
from apanet_jax.inference.multiscale.tiles import (
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
    """What was found in one square; the fields are those of `Found`."""

    margins: Margins
    peaks: Float[np.ndarray, " classes"]
    likenesses: Float[np.ndarray, " classes"]
    ranks: Margins | None


def search(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    scales: Scales,
    image: Image,
    size: tuple[int, int],
    small: Callable[[], Sequence[SupportAppearance]] | None = None,
) -> Found:
    """Looks for classes in an image.

    Args:
      matcher: which learned the classes.
      classes: to look for.
      scales: at which the image is looked at.
      image: RGB; it may be smaller than `size`.
      size: height and width of the image in its file.
      small: gives how each class appears in small squares, where close-ups need it; None: there
        are none.
    """
    grid = matcher.grid
    whole = _view(matcher, classes, fitted_square(image, grid), grid.inside(size))
    side = scales.tiled_side(size)
    if side is None:
        return Found(*whole, grid)
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
    found, closer = Found(margins, *measures, compared, large), scales.closer_side(size)
    if small is None or closer is None:
        return found
    return _closer(matcher, classes, found, image, size, enlarged(grid, closer), small())


def _closer(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    before: Found,
    image: Image,
    size: tuple[int, int],
    large: Grid,
    small: Sequence[SupportAppearance],
) -> Found:
    """Returns what is found where a place of the image stands out, see `close_ups`.

    A class for which one does is marked there alone. The others stay as they are.

    Args:
      matcher: see `search`.
      classes: see `search`.
      before: what was found in the whole and in tiles.
      image: see `search`.
      size: see `search`.
      large: of the square for what is found.
      small: how each class appears in small squares.
    """
    grid, places = close_ups.small_grid(matcher.grid), close_ups.places(image.shape[:2])
    squares = (close_ups.seen(image, place, grid) for place in places)
    appearances = [matcher.appearance(matcher.embed(square)) for square in squares]
    found = [close_ups.likenesses(appearances, of_class) for of_class in small]
    views = {
        index: _close_up(matcher, classes, index, places[int(x.argmax())], image)
        for index, x in enumerate(found)
        if close_ups.outstanding(x) >= close_ups.OUTSTANDING
    }
    if not views:
        return before
    factor = size[0] / image.shape[0]

    def both(of_all: Margins, of_views: dict[int, PositionMap], outside: Sequence[float]):
        at_large = np.stack([at_positions(x, size, before.grid, large) for x in of_all])
        for index, values in of_views.items():
            place = Place(*(x * factor for x in views[index][1]))
            window, inside = close_ups.in_place(values, place, size, matcher.grid, large)
            np.minimum(at_large[index], outside[index], out=at_large[index])
            at_large[index][window] = inside
        return at_large

    decisions = [x.decision for x in classes]
    outside = [x.threshold - OUTSIDE * x.scale for x in decisions]
    margins = both(before.margins, {n: x.margins[n] for n, (x, _) in views.items()}, outside)
    compared = before.ranks
    if compared is not None:
        of_views = {n: x.ranks[n] for n, (x, _) in views.items()}
        compared = both(compared, of_views, [np.inf] * len(classes))
    seen_before = _View(before.margins, before.peaks, before.likenesses, None)
    measures = _most_present([seen_before, *(x for x, _ in views.values())], decisions)
    return Found(margins, *measures, compared, large)


def _close_up(
    matcher: Matcher, classes: Sequence[LearnedClass], index: int, place: Place, image: Image
) -> tuple[_View, Place]:
    """Returns what is found in a place, or closer where a class is marked in it, and where."""
    grid = matcher.grid
    inside = (grid.positions, grid.positions)
    view = _view(matcher, classes, close_ups.seen(image, place, grid), inside)
    threshold = classes[index].decision.threshold
    closer = close_ups.marked_place(view.margins[index], threshold, place, grid)
    if closer is None:
        return view, place
    return _view(matcher, classes, close_ups.seen(image, closer, grid), inside), closer


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
    return _View(np.stack(margins), peaks, np.array(likenesses), compared)


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
