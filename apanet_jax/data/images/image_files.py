"""Finding files in the folders that people have: what counts, and what is passed over.

Names that macOS, Windows and notebooks leave behind are no data, wherever they lie. Names are
compared in Unicode's composed form, as one name can be stored in two ways.
"""

import glob
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from apanet_jax.runtime.errors import UserError

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".avif", ".ppm", ".pgm", ".pbm"),
)
"""Of the files that are taken for images in a folder, in lower case."""

_MOST_BAD = 100
_VIDEO_ENDINGS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"}

_LEFT_BEHIND = {
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "@eadir"),
}


def warn(message: str) -> None:
    """Prints one line of warning to the terminal's error stream."""
    print(f"warning: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def print_bad(reasons: Sequence[str]) -> None:
    """Prints a line to the error stream for each file that cannot be used, `_MOST_BAD` at most."""
    for line in reasons[:_MOST_BAD]:
        print(f"bad  {printable(line)}", file=sys.stderr)
    if len(reasons) > _MOST_BAD:
        print(f"bad  … and {len(reasons) - _MOST_BAD} more", file=sys.stderr)


def printable(text: str) -> str:
    """Returns text with what no terminal can print, such as names that are not UTF-8, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_left_behind(name: str) -> bool:
    """Returns whether a file or folder of this name is a system's or a tool's, and no data.

    Hidden ones are: `._x.jpg` and `.DS_Store` of macOS, `.ipynb_checkpoints` of Jupyter; also
    `__MACOSX`; `Thumbs.db`, `desktop.ini`, the bin and the index of a drive of Windows; and
    `@eaDir` of Synology's network drives.
    """
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and below it, sorted, without what `is_left_behind`.

    Links to folders are followed, each folder once.
    """
    yield from sorted(_files_below(folder, set()))


def find_images(
    queries: Sequence[str | os.PathLike], tell: Callable[[str], None] = warn
) -> list[Path]:
    """Returns the images that files, folders and patterns name, each once, in order.

    Folders are searched with what lies below them, for files with `ENDINGS`.

    Args:
      queries: names of files and folders, or patterns such as `trap/*.jpg`.
      tell: is given one line that counts the other files in the folders, if there are any.

    Raises:
      UserError: one of them leads to nothing.
    """
    found: dict[Path, None] = {}
    left_out: Counter[str] = Counter()
    for query in map(os.fspath, queries):
        path = Path(query)
        if path.is_dir():
            files = list(files_below(path))
            new = [file for file in files if file.suffix.lower() in ENDINGS]
            left_out.update(f.suffix.lower() or f.name for f in files if f not in set(new))
            if not new:
                there = f", but {counted(left_out)}{_of_videos(left_out)}" if files else ""
                raise UserError(f"the folder {query} holds no image ({', '.join(ENDINGS)}){there}")
        elif path.exists():
            # Shells put what Windows leaves behind into the place of `photos/*`.
            new = [] if path.name.lower() in _LEFT_BEHIND else [path]
        else:
            matches = (Path(match) for match in glob.glob(query, recursive=True))
            new = sorted(match for match in matches if match.is_file() and not _hidden(match))
            if not new:
                raise UserError(
                    f"{query} names no file, no folder, and no pattern that fits a file"
                )
        found.update(dict.fromkeys(new))
    if not found:
        raise UserError(f"{', '.join(map(os.fspath, queries))} holds no image")
    if left_out:
        named = _of_videos(left_out)
        tell(f"left out, no images that are read: {counted(left_out)}{named}")
    return list(found)


def counted(kinds: Counter[str]) -> str:
    """Returns how many there are of each kind, as in "12 .heic, 1 .txt"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def existing(path: Path) -> Path:
    """Returns a file's path as the disk has it, where its name differs by Unicode's form alone.

    Macs store decomposed names, annotation files hold composed ones. Where there is no such file,
    the path comes back as it was given.
    """
    if path.exists() or path.parent == path:
        return path
    parent = existing(path.parent)
    wanted = composed(path.name)
    try:
        same = [name for name in os.listdir(parent) if composed(name) == wanted]
    except OSError:
        return path
    return parent / same[0] if same else path


def composed(name: str) -> str:
    """Returns a name in the form in which two ways of writing it are equal (NFC)."""
    return unicodedata.normalize("NFC", name)


def relative_parts(name: str) -> tuple[str, ...]:
    """Returns the folders and the file that a name in an annotation file consists of.

    Backslashes separate like slashes. What leads out of a folder, a drive, a root or `..`, is left
    out: the parts never lead elsewhere.
    """
    parts = name.replace("\\", "/").split("/")
    return tuple(p for p in parts if p not in ("", ".", "..") and not p.endswith(":"))


def _of_videos(kinds: Counter[str]) -> str:
    return "; a video is taken where it is named itself" if set(kinds) & _VIDEO_ENDINGS else ""


def _hidden(match: Path) -> bool:
    return any(part.lower() in _LEFT_BEHIND for part in match.parts) or match.name.startswith("._")


def _files_below(folder: Path, seen: set[tuple[int, int]]) -> Iterable[Path]:
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    folders = []
    for path in folder.iterdir():
        if is_left_behind(path.name):
            continue
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            yield path
    for path in sorted(folders):
        yield from _files_below(path, seen)
