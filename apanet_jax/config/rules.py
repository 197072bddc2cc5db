"""What the value of a setting may be: a test, and the words that say what was expected."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A test of a value.

    Attributes:
      holds: whether a value is allowed; may raise for a value of another kind, which is not.
      expected: what an error says was expected, or a function that returns it.
      is_path: whether a value may be a path, in which `~` is the home folder.
    """

    holds: Callable[[Any], bool]
    expected: str | Callable[[], str]
    is_path: bool = False

    @property
    def says(self) -> str:
        """What an error says was expected."""
        return self.expected if isinstance(self.expected, str) else self.expected()

    def allows(self, value: Any) -> bool:
        """Returns whether `value` is allowed."""
        try:
            return bool(self.holds(value))
        except (TypeError, ValueError, OverflowError):
            return False


def number(low: float, high: float = math.inf, *, or_value: float | None = None) -> Rule:
    """A finite number from `low` to `high`, or the one value `or_value` outside of that range."""

    def holds(value) -> bool:
        return math.isfinite(value) and (low <= value <= high or value == or_value)

    expected = f"a number from {low} to {high}" if high < math.inf else f"at least {low}"
    return Rule(holds, expected if or_value is None else f"{or_value} or {expected}")


def switch() -> Rule:
    """True or False."""
    return Rule(lambda value: isinstance(value, bool), "True or False")


def text() -> Rule:
    """Any text."""
    return Rule(lambda value: isinstance(value, str), "text")


def path() -> Rule:
    """A path, or a name in place of one."""
    return text()._replace(is_path=True)


def one_of(*choices: str) -> Rule:
    """One of some names."""
    return Rule(lambda value: value in choices, "one of " + ", ".join(map(repr, choices)))


def backbone() -> Rule:
    """The name of a backbone."""
    return Rule(
        lambda value: value in _backbones(), lambda: "one of " + ", ".join(map(repr, _backbones()))
    )


def stems(name: str) -> tuple[str, ...]:
    """Returns the stems to choose among of the backbone of that name; none where it has one."""
    return _backbones()[name].stems


def check_image_size(name: str, size: int) -> None:
    """Raises UserError, with the nearest sizes, where a backbone cannot take images of a size."""
    from apanet_jax.models.backbones import check_size

    check_size(name, size)


def suited(name: str, size: int) -> tuple[int, bool]:
    """Returns the side nearest to `size` that a backbone takes, and whether it has a last block.

    See `models.backbones.BackboneSpec`.
    """
    row = _backbones()[name]
    if row.patch is not None:
        size = max(round(size / row.patch), 1) * row.patch
    return size, row.has_last_block


def positions(name: str, size: int) -> int:
    """Returns how many positions a backbone's feature map has of square images of a size."""
    return (-(-size // _backbones()[name].stride)) ** 2


def _backbones():
    # Not at the top: it imports jax, and a wrong flag is answered before that.
    from apanet_jax.models.backbones import BACKBONES

    return BACKBONES


def some_of(*choices: str) -> Rule:
    """A tuple of some names, each at most once."""
    return Rule(
        lambda value: set(value) <= set(choices) and len(set(value)) == len(value),
        f"a tuple of some of {choices}, each once",
    )


def shots() -> Rule:
    """A tuple of numbers of supports."""
    return Rule(
        lambda value: len(value) > 0 and all(isinstance(k, int) and k >= 1 for k in value),
        "a tuple of shots, each at least 1",
    )


def interval() -> Rule:
    """Two numbers above 0, the smaller first."""

    def holds(value) -> bool:
        return len(value) == 2 and all(map(math.isfinite, value)) and 0 < value[0] <= value[1]

    return Rule(holds, "two numbers above 0, the smaller first")


def whole_numbers(expected: str, *, or_value: tuple | None = None) -> Rule:
    """A tuple of whole numbers from 0 on, or `or_value`."""

    def holds(value) -> bool:
        return value == or_value or all(isinstance(n, int) and n >= 0 for n in value)

    return Rule(holds, expected)


def names(expected: str) -> Rule:
    """A tuple of names."""
    return Rule(lambda value: all(isinstance(name, str) for name in value), expected)


def pyramid_bins() -> Rule:
    """A tuple of pyramid levels, each in positions a side or as a fraction of the feature map's."""

    def holds(value) -> bool:
        return all(map(_is_level, value))

    return Rule(
        holds,
        "a tuple of whole numbers above 1 (positions a side) or fractions up to 1 (of the feature "
        "map's sides)",
    )


def _is_level(value) -> bool:
    return isinstance(value, int | float) and (
        0 < value <= 1 or (isinstance(value, int) and value > 1)
    )
