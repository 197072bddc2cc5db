"""Finds what supports show in a list of files, and writes what was found."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from apanet_jax.data.image_files import printable
from apanet_jax.inference import segmenter
from apanet_jax.inference.annotation_files import AnnotationFiles
from apanet_jax.inference.prediction_files import (
    CONTACT_IMAGES,
    caption,
    contact_sheet,
    contents,
    described,
    overlay_of,
    result_row,
    thumbnail,
)
from apanet_jax.inference.prediction_job import PredictionJob
from apanet_jax.inference.queries import read_queries
from apanet_jax.inference.written_files import CONTACT_SHEET, RESULTS, WrittenFiles
from apanet_jax.runtime.atomic_files import json_bytes
from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled
from apanet_jax.runtime.errors import UserError


def predict(job: PredictionJob) -> int:
    """Does a job; prints what was found, and which queries could not be used.

    Each file appears whole. What an earlier job left in the folder is removed first, and `RESULTS`
    is written last, so that it never describes other files than those beside it.

    Returns:
      The command's status: 2 where some queries could not be used, else 0.

    Raises:
      UserError: a support cannot be used (then nothing was written), or a result not be written.
    """
    keep_compiled(DIRECTORY)
    fitted = _fitted(job)
    written, annotations = WrittenFiles(job.output), AnnotationFiles(job)
    rows, shown = [], []
    for row, captioned in _results(job, fitted, written, annotations):
        rows.append(row)
        if captioned and len(shown) < CONTACT_IMAGES:
            shown.append(captioned)
    for name, content in annotations.of_all():
        written.write(name, content)
    written.write(CONTACT_SHEET, contact_sheet(job.supports, shown, list(job.class_files)))
    written.write(RESULTS, json_bytes(_settings(job, fitted) | {"queries": rows}))
    found = sum(any(x["found"] for x in row.get("classes", ())) for row in rows)
    sheet = os.fsencode(job.output / CONTACT_SHEET).decode(errors="replace")
    print(f"found in {found} of {len(rows)} images; {sheet} shows them")
    for note in job.notes:
        print(printable(note))
    return _report_failures(rows)


def _fitted(job: PredictionJob) -> segmenter.Segmenter:
    """Returns a segmenter that has learned from the job's supports."""
    empty = segmenter.load(job.source, head=job.head, size=job.size, trained=job.trained)
    empty.options = job.options
    names, images, masks = zip(*job.supports, strict=True)
    classes = None if names[0] is None else names
    return empty.fit(images, masks, classes, negatives=job.negatives)


def _results(
    job: PredictionJob,
    fitted: segmenter.Segmenter,
    written: WrittenFiles,
    annotations: AnnotationFiles,
) -> Iterator[tuple[dict[str, Any], tuple[str, Any] | None]]:
    """Writes each query's files; yields its row, and its overlay with a caption if there is one."""
    total = len(job.queries)
    images = tqdm(
        read_queries(job.queries), total=total, desc="segmenting", unit="image", disable=None
    )
    for query, read in images:
        if isinstance(read, UserError):
            yield described(query) | {"error": str(read)}, None
            continue
        image = read.image
        answer = next(fitted.answers([image]))
        overlay = overlay_of(answer, image)
        if "png" in job.formats:
            for name, content in contents(answer, overlay, query, job.class_files):
                written.write(name, content)
        for name, content in annotations.of_query(query, image, answer):
            written.write(name, content)
        row = result_row(answer, image, query, job.class_files, job.formats)
        captioned = caption(answer, query.name, list(job.class_files))
        yield row, (captioned, thumbnail(overlay))


def _settings(job: PredictionJob, fitted: segmenter.Segmenter) -> dict[str, Any]:
    decisions = zip(fitted.classes_, fitted.decisions_, strict=True)
    return {
        "head": fitted.head,
        "trained": job.trained,
        "size": fitted.matcher.grid.size,
        "supports": [[name, str(image), str(mask)] for name, image, mask in job.supports],
        "negatives": [str(image) for image in job.negatives],
        "classes": [{"name": name, **decision._asdict()} for name, decision in decisions],
    }


def _report_failures(rows: list[dict[str, Any]]) -> int:
    failed = [row["error"] for row in rows if "error" in row]
    if failed:
        print(
            f"error: {len(failed)} of {len(rows)} images could not be used, the first: {failed[0]}",
            file=sys.stderr,
        )
    return 2 if failed else 0
