"""Finds what supports show in a list of files, and writes what was found."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from apanet_jax.data.images.image_files import print_bad, printable
from apanet_jax.inference import segmenter
from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.files.annotation_files import AnnotationFiles
from apanet_jax.inference.files.prediction_files import (
    CONTACT_IMAGES,
    OVERLAY_SIDE,
    Image,
    caption,
    contact_sheet,
    contents,
    described,
    overlay_of,
    result_row,
    thumbnail,
)
from apanet_jax.inference.files.prediction_job import PredictionJob
from apanet_jax.inference.files.queries import Query, read_queries
from apanet_jax.inference.files.written_files import CONTACT_SHEET, RESULTS, WrittenFiles
from apanet_jax.runtime.atomic_files import json_bytes
from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled
from apanet_jax.runtime.errors import UserError

_AHEAD, _BEHIND = 2, 2
"""Images that are read before their turn, and whose files are still to be written."""

Item = TypeVar("Item")
LISTED = 10
"""Images that are printed with their expected quality."""


def predict(job: PredictionJob) -> int:
    """Does a job; prints what was found, and which queries could not be used.

    Each file appears whole. The segmenter is saved first, if it is. What an earlier job left in the
    folder is removed then, and `RESULTS` is written last, so that it never describes other files
    than those beside it. It stands alone where no query could be used, and says why of each.

    Returns:
      The command's status: 2 where some queries could not be used, else 0.

    Raises:
      UserError: a support cannot be used (then nothing was written), or a result not be written.
    """
    keep_compiled(DIRECTORY)
    fitted = _fitted(job)
    if job.save is not None:
        fitted.save(job.save)
        print(f"saved to {printable(str(job.save))}: {_counted_supports(fitted)}")
    if not job.queries:
        return 0
    written, annotations = WrittenFiles(job.output), AnnotationFiles(job)
    rows, shown = [], []
    for row, captioned in _results(job, fitted, written, annotations):
        rows.append(row)
        if captioned and len(shown) < CONTACT_IMAGES:
            shown.append(captioned)
    if shown:
        for name, content in annotations.of_all():
            written.write(name, content)
        sheet = contact_sheet(fitted.supports_, fitted.matcher.grid, shown, list(job.class_files))
        written.write(CONTACT_SHEET, sheet)
    # Those that could not be used, which have no quality, come last.
    rows.sort(key=lambda row: row.get("quality", 2))
    written.write(RESULTS, json_bytes(_settings(job, fitted) | {"queries": rows}))
    if shown:
        found = sum(any(x["found"] for x in row.get("classes", ())) for row in rows)
        path = os.fsencode(job.output / CONTACT_SHEET).decode(errors="replace")
        print(f"found in {found} of {len(rows)} images; {path} shows them")
    _list_worst(rows)
    for note in job.notes:
        print(printable(note))
    return _report_failures(rows)


def _fitted(job: PredictionJob) -> segmenter.Segmenter:
    """Returns a segmenter that has learned from the job's supports, and from earlier ones."""
    if job.fitted is None:
        made = segmenter.load(job.source, head=job.head, size=job.size, trained=job.trained)
    else:
        made = segmenter.load(job.fitted)
    made.options = job.options
    if not job.supports:
        return made.partial_fit([], [], negatives=job.negatives) if job.negatives else made
    names, images, masks = zip(*job.supports, strict=True)
    classes = None if names[0] is None else names
    return made.partial_fit(images, masks, classes, negatives=job.negatives)


def _counted_supports(fitted: segmenter.Segmenter) -> str:
    counts = [(len(of_class), name) for name, of_class in fitted.supports_.items()]
    said = [
        f"{n} support{'s' if n > 1 else ''}{f' of {name}' if name else ''}" for n, name in counts
    ]
    return printable(", ".join(said))


def _list_worst(rows: list[dict[str, Any]]) -> None:
    """Prints the images of which the least is expected, that are worth correcting."""
    usable = [row for row in rows if "quality" in row]
    if len(usable) < 2:
        return
    print("expected quality, the worst first:")
    for row in usable[:LISTED]:
        frame = f" frame {row['frame']}" if "frame" in row else ""
        print(f"  {row['quality']:.2f}  {printable(row['query'])}{frame}")
    if len(usable) > LISTED:
        print(f"  and {len(usable) - LISTED} more in {RESULTS}")


def _results(
    job: PredictionJob,
    fitted: segmenter.Segmenter,
    written: WrittenFiles,
    annotations: AnnotationFiles,
) -> Iterator[tuple[dict[str, Any], tuple[str, Any] | None]]:
    """Writes each query's files; yields its row, and its overlay with a caption if there is one.

    The next images are read, and the files of the last ones written, while one is looked at.
    """
    side = max(fitted.scales.most_seen, OVERLAY_SIDE)
    progress = tqdm(total=len(job.queries), desc="segmenting", unit="image", disable=None)
    waiting: deque[Future] = deque()
    with progress, ThreadPoolExecutor(1) as writer:
        for query, read in _ahead(read_queries(job.queries, side=side)):
            if isinstance(read, UserError):
                row = described(query) | {"error": str(read)}
                waiting.append(writer.submit(lambda row: (row, None), row))
            else:
                answer = next(fitted.answers([read]))
                waiting.append(
                    writer.submit(_finish, job, query, read.image, answer, written, annotations)
                )
            while len(waiting) > _BEHIND:
                yield waiting.popleft().result()
                progress.update()
        for future in waiting:
            yield future.result()
            progress.update()


def _finish(
    job: PredictionJob,
    query: Query,
    image: Image,
    answer: Answer,
    written: WrittenFiles,
    annotations: AnnotationFiles,
) -> tuple[dict[str, Any], tuple[str, Image]]:
    """Writes a query's files; returns its row, and its overlay with a caption."""
    overlay = overlay_of(answer, image)
    if "png" in job.formats:
        for name, content in contents(answer, overlay, query, job.class_files):
            written.write(name, content)
    for name, content in annotations.of_query(query, image, answer):
        written.write(name, content)
    row = result_row(answer, query, job.class_files, job.formats)
    return row, (caption(answer, query.name, list(job.class_files)), thumbnail(overlay))


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields items that a thread takes from an iterator before they are wanted."""
    end = object()
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(reader.submit(next, items, end))
            yield item


def _settings(job: PredictionJob, fitted: segmenter.Segmenter) -> dict[str, Any]:
    decisions = zip(fitted.classes_, fitted.decisions_, strict=True)
    supports = [
        [name or None, *files]
        for name, of_class in fitted.supports_.items()
        for support in of_class
        for files in support.files
    ]
    return {
        "head": fitted.head,
        "trained": job.trained if fitted.source is None else fitted.source.trained,
        "size": fitted.matcher.grid.size,
        "supports": supports,
        "negatives": [str(image) for image in job.negatives],
        "classes": [{"name": name, **decision._asdict()} for name, decision in decisions],
    }


def _report_failures(rows: list[dict[str, Any]]) -> int:
    failed = [row["error"] for row in rows if "error" in row]
    if failed:
        why = f": {failed[0]}" if len(failed) == 1 else ""
        if not why:
            print_bad(failed)
        print(f"error: {len(failed)} of {len(rows)} images could not be used{why}", file=sys.stderr)
    return 2 if failed else 0
