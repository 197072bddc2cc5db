"""A stack of images with one of labels, as napari's layers hold them: what is drawn is found."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from apanet_jax.data.images.gray_levels import stretched
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import UserError

Labels = Int[np.ndarray, "*frames height width"]
"""0: nothing; every other number is a class."""


def found_labels(
    empty: Segmenter,
    images: Shaped[np.ndarray, "*shape"],
    drawn: Labels,
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Labels:
    """Returns the labels of all frames: as drawn where something is drawn, as found elsewhere.

    Args:
      empty: learns from the frames on which something is drawn.
      images: gray or RGB, of any number of frames or of one without an axis for it.
      drawn: of the same frames.
      shown: shows the progress through the frames' numbers.

    Raises:
      UserError: nothing is drawn, or no frame is left, or the layers are not of one size.
    """
    if images.shape[: drawn.ndim] != drawn.shape or images.ndim > drawn.ndim + 1:
        raise UserError(
            f"the images are of shape {images.shape} and the labels {drawn.shape}: expected "
            "frames, height and width of both to be the same"
        )
    size = drawn.shape[-2:]
    frames = images.reshape(-1, *size, *images.shape[drawn.ndim :])
    given = np.asarray(drawn).reshape(-1, *size)
    numbers = [number for number, labels in enumerate(given) if labels.any()]
    if not numbers:
        raise UserError("nothing is drawn yet: draw on a frame or more, with a number for a class")
    if len(numbers) == len(given):
        raise UserError("something is drawn on every frame: there is none left to find it in")
    supports, masks, names = zip(*_supports(frames, given, numbers), strict=True)
    fitted = empty.fit(supports, masks, names)
    values = np.array([0, *map(int, fitted.classes_)], given.dtype)
    result = given.copy()
    for number in shown([x for x in range(len(given)) if x not in numbers]):
        answer = next(fitted.answers([as_image(frames[number])]))
        result[number] = values[answer.labels()]
    return result.reshape(drawn.shape)


def as_image(
    frame: Shaped[np.ndarray, "height width *rgb"],
) -> UInt8[np.ndarray, "height width *rgb"]:
    """Returns a frame as values from 0 to 255; other kinds of numbers as files of them are read."""
    if frame.dtype == np.uint8:
        return frame
    levels = stretched(np.asarray(frame))
    return np.zeros(frame.shape, np.uint8) if levels is None else levels


def _supports(
    frames: np.ndarray, drawn: np.ndarray, numbers: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    for number in numbers:
        for value in np.unique(drawn[number]):
            if value:
                yield as_image(frames[number]), drawn[number] == value, str(value)
