"""List files of few-shot segmentation, in the forms that published code has them.

- A name a line, as VOC's own lists.
- An image's path and its label map's, with a space between, as PFENet's lists
  (`JPEGImages/2008_000008.jpg SegmentationClassAug/2008_000008.png`) and BAM's, whose paths begin
  elsewhere (`../data/VOCdevkit2012/VOC2012/JPEGImages/…`). Some label paths in PFENet's `val` list
  name a folder of its authors' machine: the image's name counts, folders do not.
- A name and a class id, as HSNet's (`2007_000032__01`), in a file for each fold: an image stands
  there once for each of its classes.

Names have no spaces in these: VOC's and COCO's have none.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from apanet_jax.data.images.image_files import files_below
from apanet_jax.data.sources.source import Split, check_name, read_list
from apanet_jax.runtime.errors import UserError

_WITH_CLASS = re.compile(r"(?P<name>.+)__\d{1,2}")


def read_image_lists(paths: Sequence[Path]) -> list[str]:
    """Returns the names of the images in list files, each once, in order.

    Args:
      paths: the files, or folders of them.

    Raises:
      UserError: one cannot be read, is of no known form, or names an image twice where it must not.
    """
    names: dict[str, None] = {}
    for path in paths:
        files = [f for f in files_below(path) if f.suffix == ".txt"] if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no list file (.txt)")
        for file in files:
            names.update(dict.fromkeys(_read(file)))
    return list(names)


def count_note(
    split: Split, found: int, protocols: int, *, given: bool, any_count: bool, hint: str
) -> list[str]:
    """Returns a note where a list's length is not the protocol's, and was given by the user.

    Args:
      split: of the list.
      found: its length.
      protocols: the protocol's.
      given: whether the user has named the list's file.
      any_count: whether any length is accepted without a note.
      hint: what to do about another length.

    Raises:
      UserError: it is another length, and neither given nor accepted.
    """
    if found == protocols:
        return []
    line = f"the {split} list has {found} images, the protocol's has {protocols}"
    if not given and not any_count:
        raise UserError(f"{line}: {hint}, or accept it with --any_count")
    return [line] if given else []


def _read(path: Path) -> list[str]:
    names, with_class = [], False
    for number, line in enumerate(read_list(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2:
            raise UserError(
                f"line {number} of {path} has {len(fields)} fields, expected the name of an image, "
                "or the paths of an image and its label map"
            )
        stems = {PurePosixPath(field.replace("\\", "/")).stem for field in fields}
        if len(fields) == 2 and len(stems) > 1:
            raise UserError(
                f"line {number} of {path} names an image and the label map of another: {line!r}"
            )
        name = stems.pop()
        if len(fields) == 1 and (found := _WITH_CLASS.fullmatch(fields[0])):
            name, with_class = found["name"], True
        check_name(name, path)
        names.append(name)
    if len(set(names)) < len(names) and not with_class:
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {twice!r} more than once")
    return names
