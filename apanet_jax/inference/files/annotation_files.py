"""What `apanet_jax.predict` writes for annotation tools: COCO, LabelMe, YOLO, and a table."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.images.encoded_images import read_bytes
from apanet_jax.data.images.reader import read_image
from apanet_jax.inference.files.formats.coco import CocoFileWriter
from apanet_jax.inference.files.formats.instance_table import InstanceTable
from apanet_jax.inference.files.formats.instances import NO_NAME, AnnotatedImage, instances
from apanet_jax.inference.files.formats.labelme import labelme_file
from apanet_jax.inference.files.formats.yolo import yolo_data, yolo_labels
from apanet_jax.inference.files.prediction_files import png
from apanet_jax.inference.files.prediction_job import (
    FRAMES,
    LABELME,
    OF_ALL,
    YOLO,
    PredictionJob,
    yolo_ending,
)
from apanet_jax.inference.files.queries import Query
from apanet_jax.runtime.atomic_files import json_bytes

if TYPE_CHECKING:
    from apanet_jax.inference.answers.answer import Answer


class AnnotationFiles:
    """The files of a job's formats, but for images of masks."""

    def __init__(self, job: PredictionJob):
        """Begins the files that are of all queries."""
        self._job = job
        self._class_names = [name or NO_NAME for name in job.class_files]
        self._base = _common_folder([query.path for query in job.queries])
        self._coco, self._table = (
            CocoFileWriter(self._class_names),
            InstanceTable(self._class_names),
        )

    def of_query(
        self, query: Query, image: UInt8[np.ndarray, "height width 3"], answer: "Answer"
    ) -> Iterator[tuple[str, bytes]]:
        """Yields a query's files: name and content.

        The instances are the parts of the label map: no pixel is in two of them, and a class that
        was not found has none.
        """
        formats = set(self._job.formats) - {"png"}
        if not formats:
            return
        found = instances(answer.labels(), answer.scores, answer.probability_levels)
        annotated = AnnotatedImage(self._file_name(query), answer.size, found)
        if "coco" in formats:
            self._coco.add(annotated)
        if "csv" in formats:
            self._table.add(annotated, answer.quality)
        if query.frame is not None and formats & {"coco", "labelme"}:
            yield f"{FRAMES}/{query.name}.png", png(image)
        if "labelme" in formats:
            named = annotated._replace(file_name=self._from_labelme(query))
            content = json_bytes(labelme_file(named, self._class_names))
            yield f"{LABELME}/{query.name}.json", content
        if "yolo" in formats:
            ending = yolo_ending(query)
            own = query.frame is None and ending == query.path.suffix.lower()
            # A file's image may have been read smaller than it is.
            whole = image if query.frame is not None else read_image(query.path).image
            content = read_bytes(query.path) if own else png(whole)
            yield f"{YOLO}/images/{query.name}{ending}", content
            yield f"{YOLO}/labels/{query.name}.txt", yolo_labels(annotated).encode()

    def of_all(self) -> Iterator[tuple[str, bytes]]:
        """Yields the files that are of all queries: name and content."""
        contents = {
            "coco": lambda: json_bytes(self._coco.content),
            "yolo": lambda: yolo_data(self._class_names).encode(),
            "csv": lambda: self._table.text.encode("utf-8", "surrogateescape"),
        }
        for name in self._job.formats:
            if name in OF_ALL:
                yield OF_ALL[name], contents[name]()

    def _file_name(self, query: Query) -> str:
        """Returns an image's file from the folder on that all queries are in."""
        if query.frame is not None:
            return f"{query.name}.png"
        path = query.path.absolute()
        return path.relative_to(self._base).as_posix() if self._base else path.name

    def _from_labelme(self, query: Query) -> str:
        """Returns how an image's file is reached from the folder of LabelMe's files."""
        if query.frame is not None:
            return f"../{FRAMES}/{query.name}.png"
        image = query.path.parent.resolve() / query.path.name
        try:
            relative = os.path.relpath(image, self._job.output.resolve() / LABELME)
        except ValueError:  # Windows: it is on another drive.
            return str(image)
        return PurePath(relative).as_posix()


def _common_folder(paths: list[Path]) -> Path | None:
    """Returns the folder that all files are in or below; None where they share no drive."""
    try:
        return Path(os.path.commonpath([path.absolute().parent for path in paths]))
    except ValueError:
        return None
