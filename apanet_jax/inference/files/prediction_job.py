"""What `apanet_jax.predict` is to do, checked before anything is computed or written."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.data.annotations.masks import split_choice
from apanet_jax.data.images.image_files import find_images
from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.files.queries import Query, file_name, find_queries
from apanet_jax.inference.files.support_folders import Support
from apanet_jax.inference.files.written_files import CONTACT_SHEET, LIST, RESULTS, check_replaced
from apanet_jax.inference.heads.head_choice import AUTO, HeadChoice, excluding
from apanet_jax.inference.supports.saved_segmenter import class_names, is_saved
from apanet_jax.runtime.errors import UserError

FORMATS = ("png", "coco", "labelme", "yolo", "csv")
MOST_NEGATIVES = 50
FRAMES, LABELME, YOLO = "frames", "labelme", "yolo"
"""Folders in the output."""
OF_ALL = {"coco": "coco.json", "yolo": f"{YOLO}/data.yaml", "csv": "instances.csv"}
"""The file of a format that is of all queries."""
_YOLO_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class PredictionJob(NamedTuple):
    """What is to be found, in which images, and where the results go.

    Attributes:
      supports: images with masks.
      queries: images to segment; none where the segmenter is only saved.
      output: folder of the results; None where there are no queries.
      class_files: by the name of each class (None where there is one without a name), what stands
        for it in the names of files; see `class_files`.
      source: of the head, see `segmenter.load`; None: one that comes with the package.
      head: which of those, see `segmenter.load`.
      size: see `segmenter.load`.
      trained: see `segmenter.load`.
      options: which pixels the masks mark.
      formats: of `FORMATS`, in which the results are written.
      notes: lines that say which files in the queries' folders are no images that are read.
      fitted: a saved segmenter that learns from the supports too; None: they are all.
      save: the file that the segmenter is saved as; None: it is not.
      negatives: images that show none of the classes.
    """

    supports: Sequence[Support]
    queries: Sequence[Query]
    output: Path | None
    class_files: dict[str, str]
    source: Path | None = None
    head: HeadChoice = AUTO
    size: int | None = None
    trained: bool = True
    options: MaskOptions = DEFAULT_OPTIONS
    formats: Sequence[str] = ("png",)
    notes: Sequence[str] = ()
    fitted: Path | None = None
    save: Path | None = None
    negatives: Sequence[Path] = ()


def prediction_job(
    supports: Sequence[Support],
    queries: Sequence[str],
    output: Path | None,
    *,
    source: Path | None = None,
    head: HeadChoice = AUTO,
    size: int | None = None,
    trained: bool = True,
    options: MaskOptions = DEFAULT_OPTIONS,
    formats: str = "png",
    every: int | None = None,
    fitted: Path | None = None,
    save: Path | None = None,
    negatives: Sequence[str] = (),
) -> PredictionJob:
    """Returns the job, once it is known that its files can be opened and its results written.

    Args:
      supports: images with masks, all of them with a class or none.
      queries: files, folders and patterns.
      output: see `PredictionJob`.
      source: see `PredictionJob`.
      head: see `PredictionJob`.
      size: see `PredictionJob`.
      trained: see `PredictionJob`.
      options: see `PredictionJob`.
      formats: of `FORMATS`, with commas between them.
      every: see `find_queries`.
      fitted: see `PredictionJob`.
      save: see `PredictionJob`.
      negatives: files, folders and patterns, see `PredictionJob`.

    Raises:
      UserError: there are no supports or no queries, a query is no image, a result would replace a
        given file, another result, or a file that is none of an earlier job, or choices exclude
        each other.
    """
    names = _class_names(supports, fitted)
    _check_head(source, head, size, fitted, trained=trained)
    if not queries and (save is None or output is not None):
        raise UserError("no query: name images to segment, or give --save=FILE and no --output")
    if queries and output is None:
        raise UserError("no --output: name the folder where the results go")
    if not 0 < options.threshold < 1:
        raise UserError(f"--threshold={options.threshold:g}: expected a number between 0 and 1")
    if options.smallest < 0:
        raise UserError(f"--smallest={options.smallest}: expected 0 pixels or more")
    files = class_files(names)
    chosen = _formats(formats)
    notes: list[str] = []
    images = find_images(queries, tell=notes.append) if queries else []
    job = PredictionJob(
        supports,
        find_queries(images, every, tell=notes.append) if queries else [],
        output,
        files,
        source,
        head,
        size,
        trained,
        options,
        chosen,
        notes,
        fitted,
        save,
        _negatives(negatives, notes),
    )
    if output is not None:
        _check_results(job)
        _check_writable(output)
    if save is not None:
        _check_saved(save)
    return job


def _class_names(supports: Sequence[Support], fitted: Path | None) -> list[str | None]:
    """Returns the classes of a saved segmenter and of supports; None where there is no name.

    Raises:
      UserError: there is none, some have a name and some have not, or the file cannot be used.
    """
    saved = [] if fitted is None else [name or None for name in class_names(fitted)]
    given = [support.name for support in supports]
    if not saved and not given:
        raise UserError(
            "no support: give --support IMAGE MASK, --class NAME IMAGE MASK, or --supports DIR; or "
            "--fitted=FILE, a segmenter that was saved"
        )
    if len({name is None for name in given}) > 1:
        raise UserError(
            "some supports with a class and some without (--support and --class together): name "
            "every support's class, or none"
        )
    if len({name is None for name in (*saved, *given)}) > 1:
        flags = "--support" if saved[0] is None else f"--class, as of {', '.join(map(str, saved))}"
        raise UserError(
            f"--fitted={fitted} has supports with{'out' if saved[0] is None else ''} a class's "
            f"name: give further ones by {flags}"
        )
    return [*saved, *given]


def _check_head(
    source: Path | None, head: str, size: int | None, fitted: Path | None, *, trained: bool
) -> None:
    """Refuses flags of which one decides what another says."""
    flags = {"source": "--workdir", "head": f"--head={head}", "untrained": "--untrained"}
    if pair := excluding(source, head, trained=trained):
        raise UserError(f"{' and '.join(flags[name] for name in pair)} together: give one of them")
    if source is not None and source.is_file():
        raise UserError(
            f"--workdir={source} is no folder: give a run's, or an exported head's; a saved "
            "segmenter is given by --fitted"
        )
    own = {
        "--workdir": source is not None,
        f"--head={head}": head != AUTO,
        f"--size={size}": size is not None,
        "--untrained": not trained,
    }
    for flag in (flag for flag, is_given in own.items() if is_given and fitted is not None):
        raise UserError(
            f"--fitted and {flag} together: a saved segmenter has its head and its size, give one "
            "of them"
        )


def _check_saved(save: Path) -> None:
    """Refuses a file that the segmenter cannot be saved as, or would replace something else."""
    folder = save.absolute().parent
    if save.is_dir():
        raise UserError(f"--save={save} is a folder: give the name of a file in it")
    if not folder.is_dir():
        raise UserError(f"--save={save}: there is no folder {folder}, make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--save={save}: {folder} cannot be written to, take another folder")
    if save.exists() and not is_saved(save):
        raise UserError(
            f"--save={save} is there and is no saved segmenter: take another name, or move it"
        )


def class_files(names: Sequence[str | None]) -> dict[str, str]:
    """Returns what stands for each class in the names of files: nothing where it has no name.

    Raises:
      UserError: two classes would share it.
    """
    files = {name or "": f"_{file_name(name)}" if name is not None else "" for name in names}
    if "_labels" in files.values() or "_overlay" in files.values():
        raise UserError("a class cannot be called labels or overlay: results are called so")
    if len(set(files.values())) < len(files):
        raise UserError(f"the classes {', '.join(files)} cannot be told apart in names of files")
    return files


def file_names(query: Query, files: dict[str, str], formats: Sequence[str]) -> list[str]:
    """Returns the names of a query's results; `prediction_files` and `annotation_files` make them.

    Args:
      query: what they are of.
      files: see `class_files`.
      formats: see `PredictionJob`.
    """
    name, names = query.name, []
    if "png" in formats:
        parts = [f"{part}_{kind}" for part in files.values() for kind in ("mask", "probability")]
        labels = [] if "" in files else ["_labels"]
        ending = map_ending(query)
        names += [f"{name}{part}{ending}" for part in (*parts, *labels)] + [f"{name}_overlay.png"]
    if query.frame is not None and {"coco", "labelme"} & set(formats):
        names.append(f"{FRAMES}/{name}.png")
    if "labelme" in formats:
        names.append(f"{LABELME}/{name}.json")
    if "yolo" in formats:
        names += [f"{YOLO}/labels/{name}.txt", f"{YOLO}/images/{name}{yolo_ending(query)}"]
    return names


def map_ending(query: Query) -> str:
    """Returns the ending of masks: a TIFF can hold a georeference, a PNG cannot."""
    return ".png" if query.georeference is None else ".tif"


def yolo_ending(query: Query) -> str:
    """Returns the ending of the image in YOLO's layout: its own where YOLO's tools read such."""
    ending = query.path.suffix.lower()
    return ending if query.frame is None and ending in _YOLO_ENDINGS else ".png"


def _negatives(given: Sequence[str], notes: list[str]) -> list[Path]:
    if not given:
        return []
    found = find_images(given, tell=notes.append)
    if len(found) > MOST_NEGATIVES:
        raise UserError(
            f"--negative: {len(found)} images, expected {MOST_NEGATIVES} at most: each query is "
            "compared with all of them"
        )
    return found


def _formats(text: str) -> tuple[str, ...]:
    chosen = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        wrong = f"{unknown[0]} is none" if unknown else "none is given"
        raise UserError(f"--format={text}: {wrong}, expected some of {','.join(FORMATS)}")
    return tuple(dict.fromkeys(chosen))


def _check_results(job: PredictionJob) -> None:
    """Refuses results that would take the place of a given file, of each other or of others."""
    given = {path.resolve() for path in (*(x.path for x in job.queries), *job.negatives)}
    for _, image, mask in job.supports:
        given |= {image.resolve(), split_choice(mask)[0].resolve()}
    results = [n for q in job.queries for n in file_names(q, job.class_files, job.formats)]
    for name, count in Counter(results).items():
        if count > 1:
            raise UserError(f"two results would be called {name}: rename a query or a class")
        if (job.output / name).resolve() in given:
            raise UserError(f"{job.output / name} is one of the given files: take another --output")
    of_all = [OF_ALL[name] for name in job.formats if name in OF_ALL]
    results += [*of_all, CONTACT_SHEET, RESULTS, LIST]
    if job.save is not None and job.save.resolve() in {(job.output / x).resolve() for x in results}:
        raise UserError(f"--save={job.save} is called like a result: take another name")
    check_replaced(job.output, results, given)


def _check_writable(output: Path) -> None:
    """Refuses a folder that is none or cannot be written, which a long computation would meet."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--output={output}: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output={output}: {existing} cannot be written to, take another folder")
