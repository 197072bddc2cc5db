"""Writing a source as records: all of it or nothing, with a report of what was found."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from apanet_jax.data.records.building import (
    JOINED,
    Part,
    any_finished,
    comes_from,
    holds_parts,
    join,
    remove_parts,
    write_parts,
)
from apanet_jax.data.records.reading import ARRAYS, FORMAT, INDEX
from apanet_jax.data.records.record_files import FOLDER
from apanet_jax.data.sources.source import Source, Split, notes_of
from apanet_jax.runtime.atomic_files import move, write_json
from apanet_jax.runtime.errors import UserError

_REPORT = "report.json"
_REPLACED = "replaced"
_OWN = (
    *(INDEX, ARRAYS, _REPORT, f"{FOLDER}/*/{FOLDER}-*"),
    *(f"{FOLDER}/*/dataset_info.json", f"{FOLDER}/*/features.json"),
    # Kept features (`data.kept_features`), which are of these records' images.
    *("features/*/*.npy", "features/*/progress.json", "features/*/identity.txt"),
    "features/*/in_use.*",
)
"""What records of any version hold, as patterns of paths."""
_OF_SYSTEMS = ("._*", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What is no loss anywhere."""


@dataclasses.dataclass
class Report:
    """What was found in a source.

    Attributes:
      pictures: how many images, by split.
      per_class: by split and class name, images with any pixel and with `min_area` pixels of it.
      bad: one line for each image that cannot be used.
      notes: lines that say what was left out, and what images were taken for.
    """

    pictures: dict[str, int] = dataclasses.field(default_factory=dict)
    per_class: dict[str, dict[str, tuple[int, int]]] = dataclasses.field(default_factory=dict)
    bad: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


class BadImages(UserError):
    """Some images of a source cannot be used; `report.bad` names each."""

    def __init__(self, report: Report):
        """Says how many, and what to do."""
        super().__init__(
            f"{len(report.bad)} images cannot be used, nothing was written: mend them, or leave "
            "them out with --skip_bad"
        )
        self.report = report


def write_records(
    source: Source,
    directory: Path,
    *,
    skip_bad: bool = False,
    overwrite: bool = False,
    min_area: int = 2048,
) -> Report:
    """Writes a source as records, whole or not at all.

    A call that is interrupted leaves its finished parts (`building.MOST_IMAGES` images each)
    beside `directory`, in a folder named after it with the ending `.unfinished`, and the next call
    goes on behind them. The records are the same for any number of interruptions. The report is
    kept in them as `report.json`.

    Args:
      source: what to write.
      directory: where to; it appears when everything is written.
      skip_bad: leave out images that cannot be used, instead of refusing.
      overwrite: replace records that are there, once the new ones are whole.
      min_area: pixels of a class that put an image on its list, for the report.

    Raises:
      UserError: `directory` is there already, or holds anything beside records, or images cannot be
        used.
    """
    directory = Path(directory)
    if directory.is_symlink():
        directory = directory.resolve()
    unfinished = directory.with_name(directory.name + ".unfinished")
    if (unfinished / _REPLACED).exists() and not directory.exists():
        # A call was killed between the two renames of `_put`.
        move(unfinished / _REPLACED, directory)
    if directory.exists() and not overwrite:
        # A call that was killed behind its last step but one; before, records are earlier ones.
        if comes_from(source, unfinished) and not holds_parts(unfinished):
            shutil.rmtree(unfinished)
            return Report(**json.loads((directory / _REPORT).read_text()))
        raise UserError(f"{directory} is there already: name another, or pass --overwrite")
    if directory.exists():
        _check_replaceable(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        parts = write_parts(source, unfinished)
        report = _report(source, parts, min_area)
        if refusal := _refusal(source, report, skip_bad):
            shutil.rmtree(unfinished)
            raise refusal
        joined = unfinished / JOINED
        shutil.rmtree(joined, ignore_errors=True)
        join(parts, joined)
        _write_index(source, parts, joined)
        write_json(joined / _REPORT, vars(report))
        remove_parts(unfinished)
        _put(joined, directory, unfinished / _REPLACED)
        shutil.rmtree(unfinished)
    except OSError as error:
        raise UserError(
            f"records could not be written to {directory}: {error.strerror or error}"
            + _what_is_kept(unfinished)
        ) from error
    except KeyboardInterrupt:
        if kept := _what_is_kept(unfinished):
            print(f"records are not written{kept}", flush=True)
        raise
    return report


def _check_replaceable(directory: Path) -> None:
    """Raises UserError unless nothing but records, of any version, or nothing at all is lost."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else {""}
    if names and not {INDEX, FOLDER} <= names:
        raise UserError(
            f"{directory} holds no records, and --overwrite replaces nothing else: name another, "
            "or remove it yourself"
        )
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        own = any(fnmatchcase(name, x) and name.count("/") == x.count("/") for x in _OWN)
        if not (own or path.is_dir() or any(fnmatchcase(path.name, x) for x in _OF_SYSTEMS)):
            raise UserError(
                f"{path} is no part of the records beside it, and --overwrite would remove it: "
                "move it, or name another --output"
            )


def _put(new: Path, directory: Path, replaced: Path) -> None:
    """Puts new records into their place; earlier ones leave it just before, or stay."""
    if directory.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        move(directory, replaced)
    try:
        move(new, directory)
    except BaseException:
        if replaced.exists() and not directory.exists():
            move(replaced, directory)
        raise


def _what_is_kept(unfinished: Path) -> str:
    """Tells what an interruption leaves, and removes it where no part is finished."""
    if (unfinished / _REPLACED).exists():
        return f"; the earlier records are in {unfinished / _REPLACED}"
    if any_finished(unfinished):
        return f"; {unfinished} keeps what is finished, and the same command goes on from there"
    shutil.rmtree(unfinished, ignore_errors=True)
    return ""


def _refusal(source: Source, report: Report, skip_bad: bool) -> UserError | None:
    if report.bad and not skip_bad:
        return BadImages(report)
    for split, count in report.pictures.items():
        if not count:
            return UserError(f"{source.name} has no usable image in its {split} list")
    return None


def _report(source: Source, parts: Mapping[Split, Sequence[Part]], min_area: int) -> Report:
    report, notes = Report(notes=notes_of(source)), Counter[str]()
    for split, split_parts in parts.items():
        notes.update(note for part in split_parts for note in part.notes)
        report.bad += [line for part in split_parts for line in part.bad]
        report.pictures[split] = sum(len(part.names) for part in split_parts)
        no_areas = np.empty((0, len(source.class_names) + 1), np.int32)
        areas = np.concatenate([no_areas, *(part.areas for part in split_parts)])
        report.per_class[split] = {
            name: (int((areas[:, c] > 0).sum()), int((areas[:, c] >= min_area).sum()))
            for c, name in enumerate(source.class_names, 1)
        }
    report.notes += [f"{count} images are {note}" for note, count in notes.items()]
    return report


def _write_index(source: Source, parts: Mapping[Split, Sequence[Part]], directory: Path) -> None:
    digest, names, arrays = hashlib.sha256(), {}, {}
    for split, split_parts in parts.items():
        names[split] = [name for part in split_parts for name in part.names]
        for part in split_parts:
            digest.update(part.digests.tobytes())
        for kind in ("areas", "sizes"):
            arrays[f"{split}_{kind}"] = np.concatenate([getattr(p, kind) for p in split_parts])
    np.savez_compressed(directory / ARRAYS, **arrays)
    index = {
        "format": FORMAT,
        "name": source.name,
        "class_names": source.class_names,
        "folds": source.folds,
        "fingerprint": digest.hexdigest(),
        "names": names,
    }
    (directory / INDEX).write_text(json.dumps(index) + "\n")
