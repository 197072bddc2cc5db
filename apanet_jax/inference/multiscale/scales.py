"""At which sizes images are looked at, so that supports and queries show an object alike.

Every image is looked at as a whole, in the network's own square. Where a size above it is asked
for, larger images are looked at in tiles of that square besides. Where none is asked for, close-ups
of large images look for what was not found. A support whose object is small in
the whole image is looked at around the object alone, and then queries are looked at in tiles at the
same scale.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.inference.matching.geometry import Grid, Image, Label, fitted_square, square_label
from apanet_jax.inference.multiscale.close_ups import LEAST_SIDE
from apanet_jax.inference.multiscale.tiles import (
    cut,
    enlarged,
    largest_part,
    tile_around,
)

MOST_ZOOM = 4.0
"""By how much images are larger in tiles, where no size is asked for: the time grows with its
square."""
LEAST_ZOOM = 1.5
"""Tiles that show an image only a little larger than the whole are not worth their time."""
LEAST_CLOSER = 3.0
"""By how much larger than the square the size is that asks for close-ups."""
MOST_CLOSER = 8.0
"""By how much larger than in the whole an image is in them."""
OBJECT_SHARE = 0.3
"""Which share of a tile's side a small object is to have."""


class SupportView(NamedTuple):
    """A support as the network sees it.

    Attributes:
      square: `[size, size, 3]`, RGB.
      label: `[size, size]`: 1 the object, 0 background, 255 ignored or outside.
      size: height and width of what is seen, in pixels of the image.
      zoom: by how much larger the object is than in the whole image.
      image: of which a part may be looked at; None where it is too small for that.
      image_label: of that.
    """

    square: UInt8[np.ndarray, "size size 3"]
    label: UInt8[np.ndarray, "size size"]
    size: tuple[int, int]
    zoom: float = 1.0
    image: Image | None = None
    image_label: Label | None = None

    def has_label_of(self, other: "SupportView") -> bool:
        """Returns whether another support of the same image has the same label."""
        pairs = [(self.label, other.label), (self.image_label, other.image_label)]
        return all(x is y or np.array_equal(x, y) for x, y in pairs)

    def joined_with(self, other: "SupportView") -> "SupportView":
        """Returns this support with the objects of another label of the same image besides."""
        joined = self._replace(label=_joined(self.label, other.label))
        if self.image_label is not None and other.image_label is not None:
            joined = joined._replace(image_label=_joined(self.image_label, other.image_label))
        return joined


class Scales(NamedTuple):
    """At which sizes images are looked at.

    Attributes:
      grid: of the network's own square.
      size: longer side that is asked for, in pixels; None: none is.
      zoom: at which the supports' objects are looked at.
    """

    grid: Grid
    size: int | None = None
    zoom: float = 1.0

    @property
    def most_zoom(self) -> float:
        """By how much larger than in the whole a support may be looked at."""
        return MOST_ZOOM if self.size is None else max(self.size / self.grid.size, 1.0)

    @property
    def most_seen(self) -> int:
        """The longer side of a query beyond which nothing more of it is seen."""
        closest = round(MOST_CLOSER * self.grid.size) if self._has_close_ups else 0
        return max(self._most_tiled, closest)

    def tiled_side(self, image_size: tuple[int, int]) -> int | None:
        """Returns the longer side at which an image is looked at in tiles; None: not at all.

        No image is looked at larger than it is.
        """
        side = min(self._most_tiled, max(image_size))
        return side if side >= LEAST_ZOOM * self.grid.size else None

    def closer_side(self, image_size: tuple[int, int]) -> int | None:
        """Returns the longer side at which close-ups lie in an image; None: there are none.

        They are in large images where no size is asked for, or one much above the network's own.
        """
        least = LEAST_SIDE if self.size is None else LEAST_CLOSER * self.grid.size
        closer = self._has_close_ups and max(image_size) >= least
        return min(self.most_seen, max(image_size)) if closer else None

    @property
    def _most_tiled(self) -> int:
        zoom = self.zoom if self.size is None else self.most_zoom
        return round(max(zoom, 1.0) * self.grid.size)

    @property
    def _has_close_ups(self) -> bool:
        return self.size is None or self.size >= LEAST_CLOSER * self.grid.size

    def view(self, image: Image, label: Label) -> SupportView:
        """Returns a support as a whole, with as much of the image as `support` may need.

        Args:
          image: RGB.
          label: of the image: 1 the object, 0 background, 255 ignored; some of it is foreground.
        """
        whole = SupportView(
            fitted_square(image, self.grid), square_label(label, self.grid), label.shape
        )
        side = min(round(self.most_zoom * self.grid.size), max(label.shape))
        if side < LEAST_ZOOM * self.grid.size:
            return whole
        large = enlarged(self.grid, side)
        height, width = large.fitted(label.shape)
        return whole._replace(
            image=fitted_square(image, large)[:height, :width],
            image_label=square_label(label, large)[:height, :width],
        )

    def support(self, view: SupportView) -> SupportView:
        """Returns what the network sees of a support: the neighbourhood of a small object.

        Where the largest connected part of the object is smaller than `OBJECT_SHARE` of the whole,
        so small a part of the image is taken that it is not, or the smallest that shows something
        new.
        """
        image, label = view.image, view.image_label
        if image is None or label is None:
            return view
        share = max(largest_part(label == 1)[2:]) / max(label.shape)
        zoom = min(OBJECT_SHARE / share, max(label.shape) / self.grid.size)
        if zoom < LEAST_ZOOM:
            return view
        large = enlarged(self.grid, round(zoom * self.grid.size))
        large_label = square_label(label, large)
        tile = tile_around(large_label, large, self.grid, label.shape)
        chosen = cut(large_label, tile, self.grid, outside=IGNORE)
        if not (chosen == 0).any():
            return view
        square = cut(fitted_square(image, large), tile, self.grid)
        side = round(max(view.size) / zoom)
        seen = min(view.size[0], side), min(view.size[1], side)
        return view._replace(square=square, label=chosen, size=seen, zoom=zoom)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the label of an image of which two masks show objects of one class."""
    ignored = (first == IGNORE) | (second == IGNORE)
    return np.where((first == 1) | (second == 1), 1, ignored * np.uint8(IGNORE)).astype(np.uint8)
