"""Serves what `apanet-jax export --program` wrote, with jax, flatbuffers, NumPy and Pillow alone.

python serve_program.py program.jax --support a.jpg a.png [--support …] --output=DIR photo.jpg …

Masks are white on black. DIR then holds NAME_mask.png of each photo, 255 where the object is.
"""

import argparse
from pathlib import Path

import numpy as np
from jax import export
from PIL import Image, ImageOps

BILINEAR = Image.Resampling.BILINEAR

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("program", type=Path)
parser.add_argument("--support", nargs=2, action="append", required=True)
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("photos", nargs="+", type=Path)
given = parser.parse_args()

files = [given.program, *map(Path, sum(given.support, [])), *given.photos]
if missing := [str(path) for path in files if not path.is_file()]:
    parser.error(f"{missing[0]} is no file")
program = export.deserialize(bytearray(given.program.read_bytes()))
shots, size = program.in_avals[1].shape[:2]


def read(path, mode):
    return ImageOps.exif_transpose(Image.open(path)).convert(mode)


def inside(image):
    """Returns the width and height that an image has in its square."""
    return [max(int(n * size / max(image.size) + 1e-6) // 8 * 8, 8) for n in image.size]


def square(image, outside=0):
    """Returns an image in the top left of a square, resized as OpenCV does: without smoothing."""
    (width, height), (w, h) = image.size, inside(image)
    if image.mode == "L":  # A mask: the nearest pixel.
        pixels = np.asarray(image)[np.arange(h)[:, None] * height // h, np.arange(w) * width // w]
    else:
        affine = (width / w, 0, 0, 0, height / h, 0)
        pixels = np.asarray(image.transform((w, h), Image.Transform.AFFINE, affine, BILINEAR))
    borders = ((0, size - h), (0, size - w), (0, 0))[: pixels.ndim]
    return np.pad(pixels, borders, constant_values=outside)


supports = [square(read(image, "RGB")) for image, _ in given.support]
masks = [square(read(mask, "L").point(lambda x: x > 127), 255) for _, mask in given.support]
if len(masks) != shots or not all((mask[::8, ::8] == 1).any() for mask in masks):
    parser.error(f"the program takes {shots} supports, each with an object that is no mere speck")
photos = [read(path, "RGB") for path in given.photos]
# The batch may be of any size; each size is compiled once, so a server keeps to one.
log_odds = program.call(*map(np.stack, ([square(photo) for photo in photos], supports, masks)))

given.output.mkdir(parents=True, exist_ok=True)
for path, photo, odds in zip(given.photos, photos, np.asarray(log_odds), strict=True):
    width, height = inside(photo)
    # The last position inside lies 7 pixels before the edge; what is beyond it sees the outside.
    odds = np.pad(odds[: height - 7, : width - 7], (0, 7), mode="edge")
    odds = Image.fromarray(odds).resize(photo.size, BILINEAR)
    mask = Image.fromarray(np.uint8(255) * (np.asarray(odds) > 0))
    mask.save(given.output / f"{path.stem}_mask.png")
