"""Which of the heads that come with the package may be asked for, and beside what."""

from typing import Any, Literal, NamedTuple, get_args

HeadChoice = Literal["auto", "small", "dinov2", "drawn"]
AUTO, SMALL, DINOV2, DRAWN = HEADS = get_args(HeadChoice)
"""auto: dinov2 where its weights are on the machine or can be downloaded, else small.
small: rules on EfficientNet-Lite0, whose weights come with the installation, and a head on it.
dinov2: rules on DINOv2-S/14 and a head on it, and as much of small, see `joint_matcher`.
drawn: a head on EfficientNet-Lite0, trained on drawn images; configs/general.py says how."""


class HeadSource(NamedTuple):
    """Where a segmenter's matcher came from, as `segmenter.load` takes it.

    Attributes:
      folder: of a head of the user's own; None: one that comes with the package.
      head: which of those; of `HEADS`, but not "auto".
      trained: whether a head is used at all.
    """

    folder: str | None
    head: str
    trained: bool


def excluding(source: Any, head: str, *, trained: bool) -> tuple[str, ...]:
    """Returns which two choices exclude each other, of "source", "head" and "untrained".

    Args:
      source: of a head of the user's own; None: none.
      head: one of `HEADS`.
      trained: whether any head is wanted.
    """
    if source is not None and head != AUTO:
        return "source", "head"
    if source is not None and not trained:
        return "source", "untrained"
    if head == DRAWN and not trained:
        return "head", "untrained"
    return ()
