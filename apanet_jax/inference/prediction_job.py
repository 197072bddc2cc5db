"""What `apanet_jax.predict` is to do, checked before anything is computed or written."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.data.image_files import find_images
from apanet_jax.inference.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.support_folders import Support
from apanet_jax.runtime.errors import UserError


class Query(NamedTuple):
    """An image to segment.

    Attributes:
      path: its file.
      name: what its results are called; no two queries share it.
    """

    path: Path
    name: str


class PredictionJob(NamedTuple):
    """What is to be found, in which images, and where the results go.

    Attributes:
      supports: images with masks.
      queries: images to segment.
      output: folder of the results.
      class_files: by the name of each class (None where there is one without a name), what stands
        for it in the names of files; see `class_files`.
      source: of the head, see `segmenter.load`; None: the package's own.
      size: see `segmenter.load`.
      trained: see `segmenter.load`.
      options: which pixels the masks mark.
      notes: lines that say which files in the queries' folders are no images that are read.
    """

    supports: Sequence[Support]
    queries: Sequence[Query]
    output: Path
    class_files: dict[str, str]
    source: Path | None = None
    size: int | None = None
    trained: bool = True
    options: MaskOptions = DEFAULT_OPTIONS
    notes: Sequence[str] = ()


def prediction_job(
    supports: Sequence[Support],
    queries: Sequence[str],
    output: Path,
    *,
    source: Path | None = None,
    size: int | None = None,
    trained: bool = True,
    options: MaskOptions = DEFAULT_OPTIONS,
) -> PredictionJob:
    """Returns the job, once it is known that its files can be opened and its results written.

    Args:
      supports: images with masks, all of them with a class or none.
      queries: files, folders and patterns.
      output: see `PredictionJob`.
      source: see `PredictionJob`.
      size: see `PredictionJob`.
      trained: see `PredictionJob`.
      options: see `PredictionJob`.

    Raises:
      UserError: there are no supports or no queries, a query is no image, or a result would replace
        a given file or another result.
    """
    if not supports:
        raise UserError(
            "no support: give --support IMAGE MASK, --class NAME IMAGE MASK, or --supports DIR"
        )
    if len({support.name is None for support in supports}) > 1:
        raise UserError(
            "some supports with a class and some without (--support and --class together): name "
            "every support's class, or none"
        )
    if source and not trained:
        raise UserError("--workdir and --untrained together: a head, or none; give one of them")
    if not 0 < options.threshold < 1:
        raise UserError(f"--threshold={options.threshold:g}: expected a number between 0 and 1")
    if options.smallest < 0:
        raise UserError(f"--smallest={options.smallest}: expected 0 pixels or more")
    files = class_files([support.name for support in supports])
    notes: list[str] = []
    named = named_queries(find_images(queries, tell=notes.append))
    _check_results(supports, named, output, files)
    _check_writable(output)
    return PredictionJob(supports, named, output, files, source, size, trained, options, notes)


def named_queries(paths: Sequence[Path]) -> list[Query]:
    """Names the results of each image: its stem, with folder or ending where that is not enough.

    `a/1.jpg` and `b/1.jpg` are `a_1` and `b_1`; `1.jpg` and `1.png` of a folder keep their ending.
    """
    names = [_file_name(path.stem) for path in paths]
    for longer in (
        lambda path: f"{path.absolute().parent.name}_{path.stem}",
        lambda path: f"{path.absolute().parent.name}_{path.name}",
        lambda path: "_".join(path.absolute().parts[1:]),
    ):
        count = Counter(names)
        names = [
            _file_name(longer(path)) if count[name] > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return [Query(*pair) for pair in zip(paths, names, strict=True)]


def class_files(names: Sequence[str | None]) -> dict[str, str]:
    """Returns what stands for each class in the names of files: nothing where it has no name.

    Raises:
      UserError: two classes would share it.
    """
    files = {name or "": f"_{_file_name(name)}" if name is not None else "" for name in names}
    if "_labels" in files.values() or "_overlay" in files.values():
        raise UserError("a class cannot be called labels or overlay: results are called so")
    if len(set(files.values())) < len(files):
        raise UserError(f"the classes {', '.join(files)} cannot be told apart in names of files")
    return files


def file_names(name: str, files: dict[str, str]) -> list[str]:
    """Returns the names of a query's results; `prediction_files.contents` makes them.

    Args:
      name: of the query.
      files: see `class_files`.
    """
    parts = [f"{part}_{kind}" for part in files.values() for kind in ("mask", "probability")]
    labels = [] if "" in files else ["_labels"]
    return [f"{name}{part}.png" for part in (*parts, *labels, "_overlay")]


def _check_results(supports, queries, output: Path, files: dict[str, str]) -> None:
    """Refuses results that would take the place of a given file or of each other."""
    given = {query.path.resolve() for query in queries}
    given |= {path.resolve() for _, *paths in supports for path in paths}
    results = [name for query in queries for name in file_names(query.name, files)]
    for name, count in Counter(results).items():
        if count > 1:
            raise UserError(f"two results would be called {name}: rename a query or a class")
        if (output / name).resolve() in given:
            raise UserError(f"{output / name} is one of the given files: take another --output")


def _check_writable(output: Path) -> None:
    """Refuses a folder that is none or cannot be written, which a long computation would meet."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--output={output}: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output={output}: {existing} cannot be written to, take another folder")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
