"""A table of instances as CSV, for spreadsheets and statistics."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from apanet_jax.inference.files.formats.instances import AnnotatedImage

HEADER = ("image", "class", "score", "area", "left", "top", "width", "height", "quality")


class InstanceTable:
    """Collects images for one table: a line for each instance, the worst image first."""

    def __init__(self, class_names: Sequence[str]):
        """Makes a table with no lines."""
        self._class_names = class_names
        self._rows: list[list[Any]] = []

    def add(self, image: AnnotatedImage, quality: float) -> None:
        """Adds the instances of an image, whose `Answer.quality` is given.

        Lengths are in pixels, areas in their number.
        """
        for x in image.instances:
            measures = (x.score, x.area, x.left, x.top, x.width, x.height, round(quality, 4))
            class_name = self._class_names[x.class_index]
            self._rows.append([image.file_name, class_name, *measures])

    @property
    def text(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(HEADER)
        table.writerows(sorted(self._rows, key=lambda row: row[-1]))
        return text.getvalue()
