"""Drawn images for few-shot segmentation, made on the fly: the quickstart's data.

Twenty classes of everyday objects in four folds of five, drawn with much variety inside a class
(make, proportions, colour, texture, size, pose, light) on cluttered backgrounds. Any class may
stand in any image and is labelled there, so that training episodes hold objects of novel
classes that they call background, as in PASCAL-5i and COCO-20i.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.drawing.backdrops import backdrop, field, slope
from apanet_jax.data.sources.drawing.brush import Canvas, Parts, paint, placed
from apanet_jax.data.sources.drawing.clutter import CLUTTER
from apanet_jax.data.sources.drawing.colours import Rng, chance, pick
from apanet_jax.data.sources.drawing.objects import OBJECTS
from apanet_jax.data.sources.drawing.outlines import Points
from apanet_jax.data.sources.drawing.textures import noise
from apanet_jax.data.sources.source import SPLITS, Sample, Split
from apanet_jax.runtime.errors import UserError

CLASS_NAMES = tuple(OBJECTS)
FOLDS = tuple(CLASS_NAMES[i : i + 5] for i in range(0, len(CLASS_NAMES), 5))
JPEG_QUALITY = 92
MINIMAL_SIZE = 64

# How likely 1, 2, 3, 4 objects in an image are, and how large the first and the others of
# them come out then: the geometric mean of width and height, as shares of the image's side.
_COUNTS = (0.25, 0.35, 0.25, 0.15)
_FIRST_EXTENT = ((0.48, 0.95), (0.44, 0.82), (0.4, 0.7), (0.38, 0.64))
_OTHER_EXTENT = (0.17, 0.6)
_OF_IMAGE, _OF_ORDER = 0, 1


class SyntheticSource:
    """A source of drawn images and their label maps.

    Image i of a split depends on the seed, the split and i only, not on how many there are:
    a longer source begins with the images of a shorter one.

    Args:
        seed: >= 0; another seed gives other images of the same classes.
        train: images in the training split.
        val: images in the validation split.
        size: side of the square images, pixels, >= 64.

    Raises:
        UserError: an argument outside its range.
    """

    name = "synthetic"
    class_names = CLASS_NAMES
    folds = FOLDS

    def __init__(self, seed: int = 0, train: int = 2000, val: int = 500, size: int = 256):
        for what, value, least in (
            ("seed", seed, 0),
            ("train", train, 0),
            ("val", val, 0),
            ("size", size, MINIMAL_SIZE),
        ):
            if not isinstance(value, int | np.integer) or value < least:
                raise UserError(
                    f"synthetic data: {what} is {value!r}; give a whole number >= {least}"
                )
        self.seed = int(seed)
        self.size = int(size)
        self.origin = f"seed {self.seed}, size {self.size}"
        self._lengths = {"train": int(train), "val": int(val)}

    def names(self, split: Split) -> list[str]:
        """The names of a split's images, `train_000000`, `train_000001`, …"""
        return [f"{split}_{i:06d}" for i in range(self._length(split))]

    def read(self, split: Split, name: str) -> Sample:
        """Draws one image.

        Returns:
            The image as JPEG, and its labels: 0 background, 1..20 the classes, 255 a thin
            band round every object.

        Raises:
            UserError: no such split or name.
        """
        prefix, _, digits = name.partition("_")
        known = prefix == split and digits.isdecimal() and int(digits) < self._length(split)
        if not known or name != f"{split}_{int(digits):06d}":
            raise UserError(
                f"synthetic data: no image {name!r} in split {split!r}, which has "
                f"{self._length(split)}, named {split}_000000 and on"
            )
        image, label = self._draw(SPLITS.index(split), int(digits))
        done, encoded = cv2.imencode(
            ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        if not done:
            raise UserError(f"synthetic data: OpenCV could not encode {name} as JPEG")
        return Sample(name=name, image=encoded.tobytes(), label=label)

    def _length(self, split: Split) -> int:
        if split not in self._lengths:
            raise UserError(f"synthetic data: no split {split!r}; there are 'train' and 'val'")
        return self._lengths[split]

    def _draw(
        self, split: int, index: int
    ) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
        rounds, place = divmod(index, len(CLASS_NAMES))
        # Every class is the first, largest object of one image in twenty.
        order = np.random.default_rng([self.seed, split, _OF_ORDER, rounds])
        first = int(order.permutation(len(CLASS_NAMES))[place])
        rng = np.random.default_rng([self.seed, split, _OF_IMAGE, index])
        classes = [first]
        for _ in range(int(rng.choice(len(_COUNTS), p=_COUNTS))):
            again = chance(rng, 0.15)
            classes.append(first if again else int(rng.integers(len(CLASS_NAMES))))
        return draw_image(rng, classes, self.size)


def draw_image(
    rng: Rng, classes: Sequence[int], size: int
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Draws an image with an object of each of these classes.

    Args:
        rng: randomness.
        classes: indices into `CLASS_NAMES`, 0-based, at least one; the first is the largest.
        size: side of the image, pixels.

    Returns:
        image: RGB.
        label: 0 background, class index + 1 on objects, 255 round them.
    """
    angle = rng.uniform(-np.pi, 0) if chance(rng, 0.85) else rng.uniform(0, np.pi)
    light = (float(np.cos(angle)), float(np.sin(angle)))
    image = backdrop(rng, size)
    instances = np.zeros((size, size), np.uint8)

    for _ in range(int(rng.integers(0, 6))):
        parts = pick(rng, CLUTTER)(rng)
        to_pixels = _pose(rng, parts, 180, rng.uniform(0.08, 0.4) * size, size, [])
        paint(image, parts, to_pixels, light=light, relief=rng.uniform(0.3, 1.2))
    if chance(rng, 0.4):
        image = _blurred(image, rng.uniform(0.8, 2.5))

    extents = [rng.uniform(*_FIRST_EXTENT[len(classes) - 1])]
    extents += [rng.uniform(*_OTHER_EXTENT) for _ in classes[1:]]
    taken: list[tuple[float, float, float, float]] = []
    objects = []
    for class_index, extent in zip(classes, extents, strict=True):
        kind = OBJECTS[CLASS_NAMES[class_index]]
        parts = kind.draw(rng)
        to_pixels = _pose(rng, parts, kind.tilt, extent * size, size, taken)
        taken.append(_bounds(placed(_points(parts), to_pixels)))
        objects.append((class_index, parts, to_pixels))
    # The order of painting decides who hides whom.
    values = np.zeros(len(objects) + 1, np.uint8)
    for number, which in enumerate(rng.permutation(len(objects)), start=1):
        class_index, parts, to_pixels = objects[which]
        values[number] = class_index + 1
        outline = 1 if chance(rng, 0.3) else 0
        relief = rng.uniform(0.3, 1.25)
        covered = paint(image, parts, to_pixels, light=light, relief=relief, outline=outline)
        instances[covered > 127] = number
        if chance(rng, 0.5):
            _cast_shadow(rng, image, covered, light)
    if chance(rng, 0.3):
        parts = pick(rng, CLUTTER)(rng)
        to_pixels = _pose(rng, parts, 180, rng.uniform(0.08, 0.3) * size, size, [])
        instances[paint(image, parts, to_pixels, light=light) > 127] = 0

    label = values[instances]
    kernel = np.ones((3, 3), np.uint8)
    label[cv2.dilate(instances, kernel) != cv2.erode(instances, kernel)] = IGNORE
    return _photographed(rng, image), label


def _points(parts: Parts) -> Points:
    return np.concatenate([part.points for part in parts])


def _bounds(points: Points) -> tuple[float, float, float, float]:
    left, top = points.min(0)
    right, bottom = points.max(0)
    return float(left), float(top), float(right), float(bottom)


def _pose(
    rng: Rng,
    parts: Parts,
    tilt: float,
    extent: float,
    size: int,
    taken: Sequence[tuple[float, float, float, float]],
) -> Float[np.ndarray, "2 3"]:
    """Chooses how an object stands in the image: an affine map from its plane to pixels.

    It is turned, mirrored, stretched and sheared a little, scaled to `extent` (geometric mean
    of width and height, pixels), and put where it hides little of the boxes in `taken`.
    """
    degrees = rng.uniform(-180, 180) if tilt >= 180 else rng.normal(0, tilt)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    stretch = np.exp(rng.normal(0, 0.09))
    side = 1 if chance(rng, 0.5) else -1
    form = np.array([(side * stretch, rng.normal(0, 0.08)), (0, 1 / stretch)])
    linear = np.array([(cos, -sin), (sin, cos)]) @ form
    left, top, right, bottom = _bounds(_points(parts) @ linear.T)
    width, height = right - left, bottom - top
    scale = min(extent / np.sqrt(width * height), 0.97 * size / max(width, height))
    width, height = width * scale, height * scale
    best, least = (0.0, 0.0), np.inf
    for _ in range(10 if taken else 1):
        # Up to a tenth of it outside the image.
        x = rng.uniform(-0.1 * width, max(size - 0.9 * width, -0.1 * width + 1))
        y = rng.uniform(-0.1 * height, max(size - 0.9 * height, -0.1 * height + 1))
        hidden = 0.0
        for a, b, c, d in taken:
            common = max(0.0, min(c, x + width) - max(a, x)) * max(
                0.0, min(d, y + height) - max(b, y)
            )
            hidden = max(hidden, common / min((c - a) * (d - b), width * height))
        if hidden < least:
            best, least = (x, y), hidden
        if hidden < 0.15:
            break
    offset = np.array(best) - scale * np.array([left, top])
    return np.column_stack([scale * linear, offset])


def _cast_shadow(
    rng: Rng,
    image: Canvas,
    covered: UInt8[np.ndarray, "size size"],
    light: tuple[float, float],
) -> None:
    """Darkens, in place, what lies behind an object and away from the light."""
    size = len(covered)
    reach = rng.uniform(0.01, 0.06) * size
    x, y = -light[0] * reach, -light[1] * reach
    shade = cv2.warpAffine(covered, np.array([(1.0, 0.0, x), (0.0, 1.0, y)]), (size, size))
    side = max(3, int(reach)) | 1
    shade = cv2.blur(cv2.blur(shade, (side, side)), (side, side))
    shade = cv2.multiply(shade, cv2.bitwise_not(covered), scale=1 / 255)
    image *= 1 - np.float32(rng.uniform(0.25, 0.6) / 255) * shade


def _blurred(image: Canvas, sigma: float) -> Canvas:
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in image])


def _photographed(rng: Rng, image: Canvas) -> UInt8[np.ndarray, "size size 3"]:
    """What a camera makes of it: uneven light, a colour cast, blur and noise."""
    size = image.shape[1]
    light = 1 + np.float32(rng.uniform(0, 0.22)) * slope(size, rng.uniform(0, 2 * np.pi))
    light += np.float32(rng.uniform(0, 0.4)) * (field(rng, size, "cloud", (0.2, 0.6)) - 0.5)
    cast = rng.uniform(0.85, 1.2) * np.exp(rng.normal(0, 0.05, 3))
    image = image * (cast.astype(np.float32)[:, None, None] * light)
    if chance(rng, 0.6):
        image = _blurred(image, rng.uniform(0.4, 0.9))
    grain = np.float32(rng.uniform(4, 22))
    for plane in image:
        plane += grain * noise(rng, size, size)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0))
