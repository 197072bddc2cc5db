"""What is done to images and label maps before the network sees them: uint8 in, uint8 out."""

import dataclasses
import functools

import cv2
import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean, which padding is filled with."""
_CROP_TRIES = 31
_CROP_KEEP = 0.85

Image = UInt8[np.ndarray, "height width 3"]
Label = UInt8[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transforms of training images, in the order in which they are applied.

    Attributes:
      size: side of the square that comes out, in pixels.
      longer_side: images are first resized so that their longer side is this; 0: left alone.
      scale: range of the random factor that both sides are multiplied by.
      rotation: largest angle to either side, in degrees.
      rotation_probability: of rotating at all.
      blur_probability: of a 5x5 Gaussian blur.
      mirror_probability: of swapping left and right.
      crop: whether the square is cut out at random; otherwise from the centre.
    """

    size: int
    longer_side: int = 0
    scale: tuple[float, float] = (0.9, 1.1)
    rotation: float = 10.0
    rotation_probability: float = 0.5
    blur_probability: float = 0.5
    mirror_probability: float = 0.5
    crop: bool = True


def augment(
    image: Image, label: Label, rng: np.random.Generator, settings: Augmentation
) -> tuple[Image, Label]:
    """Scales, rotates, blurs, mirrors and crops an image with its label map.

    Images are resampled bilinearly, labels by the nearest pixel. What comes in from outside has
    the mean colour and label 255. A random crop is drawn again up to 31 times until it keeps 85 %
    of the pixels that are neither 0 nor 255. The draws are the same in number and order whatever
    is switched off, so that one switch does not change the other transforms.
    """
    factor = rng.uniform(*settings.scale)
    angle = rng.uniform(-settings.rotation, settings.rotation)
    rotated, blurred, mirrored = rng.random(3) < (
        settings.rotation_probability,
        settings.blur_probability,
        settings.mirror_probability,
    )
    height, width = label.shape
    if settings.longer_side:
        factor *= settings.longer_side / max(height, width)
    image, label = _resize(image, label, round(height * factor), round(width * factor))
    if rotated and angle:
        image, label = _rotate(image, label, angle)
    if blurred:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if mirrored:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    image, label = _pad(image, label, settings.size)
    top, left = _crop_corner(label, rng, settings)
    window = np.s_[top : top + settings.size, left : left + settings.size]
    return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])


def fit_square(image: Image, label: Label, size: int, multiple: int = 8) -> tuple[Image, Label]:
    """Fits a test image into the top left of a square of zeros, label 255 outside.

    Its sides there are those of `fitted_size`.
    """
    new_height, new_width = fitted_size(label.shape, size, multiple)
    image, label = _resize(image, label, new_height, new_width)
    square = np.zeros((size, size, 3), np.uint8)
    square[:new_height, :new_width] = image
    square_label = np.full((size, size), IGNORE, np.uint8)
    square_label[:new_height, :new_width] = label
    return square, square_label


def fitted_size(image_size: tuple[int, int], size: int, multiple: int = 8) -> tuple[int, int]:
    """Returns the height and width that a test image has in its square.

    The longer side becomes `size`, the other keeps the proportion, both rounded down to a multiple
    of `multiple` (at least `multiple`).
    """
    factor = size / max(image_size)
    height, width = (
        max(int(n * factor + 1e-6) // multiple * multiple, multiple) for n in image_size
    )
    return height, width


def binary_label(label: UInt8[np.ndarray, "*shape"], class_id: int) -> UInt8[np.ndarray, "*shape"]:
    """Returns an episode's label: 1 where the class is, 255 where 255 was, 0 elsewhere."""
    return (label == class_id) | (label == IGNORE) * np.uint8(IGNORE)


def _resize(image: Image, label: Label, height: int, width: int) -> tuple[Image, Label]:
    if label.shape == (height, width):
        return image, label
    size = (max(width, 1), max(height, 1))
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(label, size, interpolation=cv2.INTER_NEAREST),
    )


def _rotate(image: Image, label: Label, angle: float) -> tuple[Image, Label]:
    height, width = label.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    size = (width, height)
    return (
        cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR, borderValue=MEAN_COLOUR),
        cv2.warpAffine(label, turn, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE),
    )


def _pad(image: Image, label: Label, size: int) -> tuple[Image, Label]:
    """Pads both sides evenly up to `size`."""
    height, width = label.shape
    if height >= size and width >= size:
        return image, label
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    padded, padded_label = (x.copy() for x in _empty(max(height, size), max(width, size)))
    padded[top : top + height, left : left + width] = image
    padded_label[top : top + height, left : left + width] = label
    return padded, padded_label


# A copy takes a tenth of the time of filling in a colour.
@functools.lru_cache(maxsize=8)
def _empty(height: int, width: int) -> tuple[Image, Label]:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = MEAN_COLOUR
    return image, np.full((height, width), IGNORE, np.uint8)


def _crop_corner(label: Label, rng: np.random.Generator, settings: Augmentation) -> tuple[int, int]:
    room_height, room_width = (n - settings.size for n in label.shape)
    if not settings.crop:
        return room_height // 2, room_width // 2
    if not room_height and not room_width:
        return 0, 0
    foreground = cv2.inRange(label, 1, IGNORE - 1)
    size, total = settings.size, cv2.countNonZero(foreground)
    for _ in range(_CROP_TRIES):
        top, left = int(rng.integers(room_height + 1)), int(rng.integers(room_width + 1))
        kept = cv2.countNonZero(foreground[top : top + size, left : left + size])
        if kept >= _CROP_KEEP * total:
            break
    return top, left
