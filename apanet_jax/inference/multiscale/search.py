"""Looks for classes in an image: as a whole, and in tiles where `scales` says so, and close up."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import Grid, Image, PositionMap, fitted_square
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.presence import (
    PRESENT,
    Decision,
    Prototype,
    inside,
    likeness,
    peak,
    ranks,
)
from apanet_jax.inference.multiscale import close_ups
from apanet_jax.inference.multiscale.close_ups import CloseUps, Place
from apanet_jax.inference.multiscale.scales import Scales
from apanet_jax.inference.multiscale.tiles import (
    at_positions,
    cut,
    enlarged,
    joined,
    tiles_of,
)

WHOLE_SHARE = 0.6
"""Of the whole image in the margins of one that is seen in tiles too: in a tile, much resembles an
object that the whole shows to be something else."""

OUTSIDE = 2.0
"""Log-odds against a class outside of the close-up in which it was found."""

Margins = Float[np.ndarray, "classes rows columns"]


class LearnedClass(NamedTuple):
    """What was learned of a class.

    Attributes:
      learned: by the matcher.
      prototype: of the class in its supports, see `presence`.
      decision: how its margins become an answer.
    """

    learned: Any
    prototype: Prototype
    decision: Decision


class Found(NamedTuple):
    """What was found of a class in an image.

    Attributes:
      margins: at the positions of `grid` that are centred on the image.
      peak: in the view in which the class is most likely; see `presence`.
      likeness: likewise.
      ranks: at the same positions as the margins, see `presence.ranks`; None: there is one class
        alone.
      grid: of the square that the image was fitted into.
      presence: the probability that the image shows the class.
    """

    margins: PositionMap
    peak: float
    likeness: float
    ranks: PositionMap | None
    grid: Grid
    presence: float


class _View(NamedTuple):
    """What was found in one square, of each class; the fields are those of `Found`."""

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
    close_ups_of: Callable[[], CloseUps] | None = None,
) -> list[Found]:
    """Looks for classes in an image.

    Close-ups are for classes that are not found without, or not for sure. Where the size that is
    asked for asks for close-ups, they are for all classes. A class of which a close-up marks
    nothing stays as it is.

    Args:
      matcher: which learned the classes.
      classes: to look for.
      scales: at which the image is looked at.
      image: RGB; it may be smaller than `size`.
      size: height and width of the image in its file.
      close_ups_of: gives what close-ups need, where they are needed; None: there are none.
    """
    found = _seen_at_once(matcher, classes, scales, image, size)
    side = scales.closer_side(size)
    if close_ups_of is None or side is None:
        return found
    asked = scales.size is not None
    wanted = [index for index, x in enumerate(found) if asked or x.presence <= close_ups.SURE]
    if not wanted:
        return found
    large = enlarged(matcher.grid, side)
    for index, (place, by) in zip(
        wanted, close_ups.most_alike(image, close_ups_of(), wanted), strict=True
    ):
        elsewhere = found[index].presence > PRESENT
        if by <= (close_ups.OVERRULING if elsewhere else close_ups.OUTSTANDING):
            continue
        view, place = _close_up(matcher, classes, index, place, image)
        if not (view.margins[index] > classes[index].decision.threshold).any():
            continue
        place = Place(*(x * (size[0] / image.shape[0]) for x in place))
        in_view = _of_classes(view, matcher.grid, classes)[index]
        found[index] = _marked_there(found[index], in_view, place, size, large, classes[index], by)
    return found


def _marked_there(
    before: Found,
    in_view: Found,
    place: Place,
    size: tuple[int, int],
    large: Grid,
    of_class: LearnedClass,
    by: float,
) -> Found:
    """Returns what is found of a class that is marked in one close-up alone.

    Args:
      before: what was found without close-ups.
      in_view: what was found in the close-up.
      place: of the close-up, in pixels of the image's file.
      size: see `search`.
      large: of the square for what is found.
      of_class: the class.
      by: how much the place stands out, see `close_ups.Outstanding`.
    """
    decision = of_class.decision

    def joined_with(outer: PositionMap, inner: PositionMap, most: float) -> PositionMap:
        at_large = np.minimum(at_positions(outer, size, before.grid, large), most)
        window, inside = close_ups.in_place(inner, place, size, in_view.grid, large)
        at_large[window] = inside
        return at_large

    outside = decision.threshold - OUTSIDE * decision.scale
    compared = before.ranks
    if compared is not None:
        compared = joined_with(before.ranks, in_view.ranks, np.inf)
    return Found(
        joined_with(before.margins, in_view.margins, outside),
        before.peak,
        before.likeness,
        compared,
        large,
        max(before.presence, in_view.presence, close_ups.presence(by)),
    )


def _seen_at_once(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    scales: Scales,
    image: Image,
    size: tuple[int, int],
) -> list[Found]:
    """Returns what is found in the whole image, and in tiles where there are some."""
    grid = matcher.grid
    whole = _view(matcher, classes, fitted_square(image, grid), grid.inside(size))
    side = scales.tiled_side(size)
    if side is None:
        return _of_classes(whole, grid, classes)
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
    return _of_classes(_View(margins, *measures, compared), large, classes)


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


def _of_classes(view: _View, grid: Grid, classes: Sequence[LearnedClass]) -> list[Found]:
    found = []
    for index, of_class in enumerate(classes):
        peak, likeness = float(view.peaks[index]), float(view.likenesses[index])
        of_ranks = None if view.ranks is None else view.ranks[index]
        presence = of_class.decision.presence(peak, likeness)
        found.append(Found(view.margins[index], peak, likeness, of_ranks, grid, presence))
    return found


def _view(
    matcher: Matcher,
    classes: Sequence[LearnedClass],
    square: UInt8[np.ndarray, "size size 3"],
    window: tuple[int, int],
) -> _View:
    """Returns what is found in a square, of whose positions so many rows and columns count."""
    rows, columns = window
    features, positions = matcher.embed(square), matcher.grid.positions
    margins = [np.asarray(matcher.margins(features, x.learned)) for x in classes]
    margins = [x[:rows, :columns].astype(np.float32) for x in margins]
    appearance = matcher.appearance(features)
    within = inside(appearance, window, positions)
    likenesses = [likeness(x.prototype, within) for x in classes]
    compared = None
    if len(classes) > 1:
        pairs = zip(classes, likenesses, strict=True)
        of_all = [ranks(x.prototype, appearance, y, positions) for x, y in pairs]
        compared = np.stack(of_all)[:, :rows, :columns]
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
