"""Finds what supports show in a list of files, and writes what was found."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from apanet_jax.data.image_files import printable
from apanet_jax.data.images import read_image
from apanet_jax.inference import segmenter
from apanet_jax.inference.prediction_files import (
    CONTACT_IMAGES,
    caption,
    contact_sheet,
    contents,
    overlay_of,
    result_row,
    thumbnail,
)
from apanet_jax.inference.prediction_job import PredictionJob
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes, write_json
from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled
from apanet_jax.runtime.errors import UserError

RESULTS, CONTACT_SHEET = "results.json", "contact.png"


def predict(job: PredictionJob) -> int:
    """Does a job; prints what was found, and which queries could not be used.

    Each file appears whole. `RESULTS` is written last, and that of an earlier job is removed first,
    so that it never describes other files than those beside it.

    Returns:
      The command's status: 2 where some queries could not be used, else 0.

    Raises:
      UserError: a support cannot be used (then nothing was written), or a result not be written.
    """
    keep_compiled(DIRECTORY)
    fitted = _fitted(job)
    with cannot_write(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
        (job.output / RESULTS).unlink(missing_ok=True)
    rows, shown = [], []
    for row, captioned in _results(job, fitted):
        rows.append(row)
        if captioned and len(shown) < CONTACT_IMAGES:
            shown.append(captioned)
    write_bytes(job.output / CONTACT_SHEET, contact_sheet(job.supports, shown))
    write_json(job.output / RESULTS, _settings(job, fitted) | {"queries": rows})
    found = sum(any(x["found"] for x in row.get("classes", ())) for row in rows)
    sheet = os.fsencode(job.output / CONTACT_SHEET).decode(errors="replace")
    print(f"found in {found} of {len(rows)} images; {sheet} shows them")
    for note in job.notes:
        print(printable(note))
    return _report_failures(rows)


def _fitted(job: PredictionJob) -> segmenter.Segmenter:
    """Returns a segmenter that has learned from the job's supports."""
    empty = segmenter.load(job.source, size=job.size, trained=job.trained)
    empty.options = job.options
    names, images, masks = zip(*job.supports, strict=True)
    return empty.fit(images, masks, None if names[0] is None else names)


def _results(
    job: PredictionJob, fitted: segmenter.Segmenter
) -> Iterator[tuple[dict[str, Any], tuple[str, Any] | None]]:
    """Writes each query's files; yields its row, and its overlay with a caption if there is one."""
    for query in tqdm(job.queries, desc="segmenting", unit="image", disable=None):
        try:
            image = read_image(query.path).image
        except UserError as error:
            yield {"query": str(query.path), "error": str(error)}, None
            continue
        answer = next(fitted.answers([image]))
        overlay = overlay_of(answer, image)
        for name, content in contents(answer, overlay, query.name, job.class_files):
            write_bytes(job.output / name, content)
        row = result_row(answer, image, query, job.class_files)
        yield row, (caption(answer, query.name), thumbnail(overlay))


def _settings(job: PredictionJob, fitted: segmenter.Segmenter) -> dict[str, Any]:
    decisions = zip(fitted.classes_, fitted.decisions_, strict=True)
    return {
        "head": str(job.source or "general_head") if job.trained else None,
        "size": fitted.matcher.grid.size,
        "supports": [[name, str(image), str(mask)] for name, image, mask in job.supports],
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
