"""YOLO's label files: a text file for each image, a polygon in each line.

A line is the number of a class, from 0 on, and x y of each corner as shares of the image's width
and height. Lines with a box alone, as for detection, say nothing about pixels.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from apanet_jax.data.annotations.outlines import (
    BadOutline,
    Mask,
    Outline,
    label_name,
    segmentation_mask,
)
from apanet_jax.runtime.errors import UserError

_NAMES_IN = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")
_ABOVE = 4
"""Folders in which names of classes are looked for: a label file's own, and those above it."""
_BOX = 5
"""Numbers in a line of a box."""


class YoloFile(NamedTuple):
    """What a label file says.

    Attributes:
      outlines: of the objects; each label is a class's name, or its number where it has none.
      left_out: how many lines there are of each kind that says nothing about pixels.
    """

    outlines: list[Outline]
    left_out: Counter[str]


def read_yolo(path: Path, names: dict[int, str] | None = None) -> YoloFile:
    """Reads a label file.

    Args:
      path: of the file.
      names: of the classes; None: as `yolo_names` finds them.

    Raises:
      UserError: it cannot be read, or a line is none of YOLO's.
    """
    names = yolo_names(path) if names is None else names
    outlines, left_out = [], Counter[str]()
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            index, corners = int(words[0]), np.array(words[1:], np.float64)
        except ValueError:
            index, corners = -1, np.empty(0)
        if index < 0 or len(corners) < _BOX - 1 or not np.isfinite(corners).all():
            raise UserError(f"{path}: line {number} is no label of YOLO's: {_EXPECTED}")
        if len(words) == _BOX:
            left_out["boxes without an outline"] += 1
            continue
        if len(corners) < 6 or len(corners) % 2:
            raise UserError(f"{path}: line {number} has {len(corners)} coordinates: {_EXPECTED}")
        label = names.get(index, str(index))
        outlines.append(Outline(label, lambda h, w, x=corners, n=number: _drawn(x, n, h, w)))
    return YoloFile(outlines, left_out)


def yolo_names(path: Path) -> dict[int, str]:
    """Returns the names of the classes, by number, that lie with a label file or above it.

    They are `names` in data.yaml, or a line each in classes.txt. Empty where there are none.

    Raises:
      UserError: they cannot be read.
    """
    for folder in list(path.absolute().parents)[:_ABOVE]:
        for file in (folder / name for name in _NAMES_IN):
            if file.is_file():
                found = _of_yaml(file) if file.suffix == ".yaml" else _of_lines(file)
                if found:
                    return found
    return {}


_EXPECTED = "expected a class's number, and x y of three corners or more, as shares of the image"


def _drawn(shares: np.ndarray, number: int, height: int, width: int) -> Mask:
    try:
        corners = shares.reshape(-1, 2) * (width, height)
        return segmentation_mask([corners.reshape(-1).tolist()], height, width)
    except BadOutline as error:
        raise BadOutline(
            f"line {number} {error}; expected coordinates as shares of the image, 0 to 1"
        ) from error


def _of_yaml(file: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(_text(file))
        names = content.get("names") if isinstance(content, dict) else None
        pairs = names.items() if isinstance(names, dict) else enumerate(names or ())
        return {int(number): label_name(name) for number, name in pairs}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be understood: expected YAML with a list of the classes' names"
        ) from error


def _of_lines(file: Path) -> dict[int, str]:
    lines = [line.strip() for line in _text(file).splitlines()]
    return {number: label_name(name) for number, name in enumerate(lines) if name}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text, expected labels of YOLO's") from error
