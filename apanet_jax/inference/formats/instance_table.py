"""A table of instances as CSV, for spreadsheets and statistics."""

import csv
import io
from collections.abc import Sequence

from apanet_jax.inference.formats.instances import AnnotatedImage

HEADER = ("image", "class", "score", "area", "left", "top", "width", "height")


class InstanceTable:
    """Collects images for one table: a line for each instance."""

    def __init__(self, class_names: Sequence[str]):
        """Makes a table with a head and no lines."""
        self._class_names, self._text = class_names, io.StringIO()
        self._table = csv.writer(self._text, lineterminator="\n")
        self._table.writerow(HEADER)

    def add(self, image: AnnotatedImage) -> None:
        """Adds the instances of an image: lengths in pixels, areas in their number."""
        for x in image.instances:
            measures = (x.score, x.area, x.left, x.top, x.width, x.height)
            class_name = self._class_names[x.class_index]
            self._table.writerow([image.file_name, class_name, *measures])

    @property
    def text(self) -> str:
        """The table as CSV."""
        return self._text.getvalue()
