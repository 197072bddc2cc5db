"""What a segmenter needs of a way to match images with supports."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Array, Float, UInt8

from apanet_jax.inference.matching.geometry import Grid, Label
from apanet_jax.inference.matching.presence import Appearance, Decision, Prototype


class Matcher(Protocol):
    """Embeds images, learns a class from supports, and gives each position of an image a margin.

    The margin says how much more a position resembles the class than its surroundings.

    Attributes:
      grid: the square that images are fitted into, and how the positions of its feature map lie.
    """

    grid: Grid

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> Any:
        """Returns the features of an image in its square (RGB, 0 to 255)."""

    def appearance(self, features: Any) -> Appearance:
        """Returns unit vectors of those features of an image that tell what an object is.

        Their map covers the whole square; it may have fewer positions than the margins.
        """

    def prototype(
        self, square: UInt8[np.ndarray, "size size 3"], label: Label, features: Any
    ) -> Prototype:
        """Returns the mean `appearance` of the object in a support, perhaps seen more closely.

        Args:
          square: the support's.
          label: of it, with foreground.
          features: of the square.
        """

    def learn(
        self,
        features: Sequence[Any],
        labels: Sequence[Label],
        chosen: Mapping[str, Any] | None = None,
        before: Any = None,
    ) -> Any:
        """Returns a class, learned from supports' features and labels.

        Args:
          features: what `embed` returned, of each support.
          labels: `[size, size]` of each: 1 where the class is, 0 elsewhere, 255 outside or ignored.
            One without a 1 is a negative's, an image that does not show the class; they follow the
            supports.
          chosen: what `chosen` returned of a class learned from the same; None: it is chosen.
          before: the class as it was learned from others than these: what was compared for it is
            not compared again.

        Raises:
          UserError: `chosen` is of another version of the package.
        """

    def chosen(self, learned: Any) -> Mapping[str, Any]:
        """Returns what was chosen by a class's supports: arrays, and what JSON can hold."""

    def stored(self, features: Any) -> Mapping[str, np.ndarray]:
        """Returns named arrays of a support's features, from which `restored` makes them again."""

    def restored(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Returns the features that `learn` takes of what `stored` returned."""

    def fingerprints(self) -> Mapping[str, str]:
        """Returns SHA-256 of the parameters, see `weights.load.fingerprint`, by what they are of.

        They are of the "backbone", and of the "head" where there is one.
        """

    def without(self, learned: Any, index: int) -> Any:
        """Returns what was learned, as if one of the supports and negatives had not been given."""

    def decision(self, learned: Any) -> Decision:
        """Returns how the margins of a learned class become an answer."""

    def margins(self, features: Any, learned: Any) -> Float[Array, "positions positions"]:
        """Returns an image's margins, one for each position of its feature map."""
