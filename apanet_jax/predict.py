"""Finds in pictures of your own what a few of them show with a mask."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from apanet_jax.data.image_files import find_images
from apanet_jax.data.images import open_encoded, read_bytes, read_image
from apanet_jax.inference.prediction_files import (
    CONTACT_PICTURES,
    caption,
    contact_sheet,
    contents,
    file_names,
    row,
)
from apanet_jax.inference.support_folders import Support, folder_supports
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError, called, main_guard

_DETAILS = """\
MASK is a picture (white on black, a palette with one id, or a cut-out with
transparency), LabelMe's JSON or COCO's. Where it holds several things, write
which: MASK.png:3, MASK.json:beetle. QUERY is a file, a folder, or a pattern in
quotes.

DIR then holds, for each NAME of a query: NAME_mask.png (255 where the thing
is), NAME_probability.png (128: as likely as not) and NAME_overlay.png. With
--class these are NAME_CLASS_mask.png and so on, and NAME_labels.png tells the
classes apart (1: the first one given, 2: the next). A mask says where the thing
is if it is there; results.json says of every query and class whether it was
found, a guess: the score is how likely that is. contact.png shows the
supports and the first 24 queries.

examples:
  %(prog)s --support a.jpg a_mask.png \\
      --support b.jpg b.json --output=found photos
  %(prog)s --supports=beetles --output=found photos
  %(prog)s --class beetle a.jpg a_mask.png \\
      --class leaf a.jpg leaf.png --output=found "trap/*.jpg"
"""


class Query(NamedTuple):
    """A picture to look at.

    Attributes:
      path: its file.
      name: what its results are called; no two queries share it.
    """

    path: Path
    name: str


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Does what the arguments say; returns the command's status."""
    arguments = _parser().parse_intermixed_args(argv)
    supports = _supports(arguments)
    if arguments.workdir and arguments.untrained:
        raise UserError("--workdir and --untrained together: look with a head, or without")
    files = class_files([name for name, *_ in supports])
    queries = named(find_images(arguments.queries))
    output = Path(arguments.output)
    _check(queries, supports, output, files)

    # Imported here, so that wrong arguments are answered at once and --help needs no accelerator.
    import apanet_jax
    from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled

    keep_compiled(DIRECTORY)
    segmenter = apanet_jax.load(
        arguments.workdir, size=arguments.size, trained=not arguments.untrained
    )
    names, images, masks = zip(*supports, strict=True)
    segmenter.fit(images, masks, None if names[0] is None else names)
    with cannot_write(output):
        output.mkdir(parents=True, exist_ok=True)
    failed = _predict_all(segmenter, files, queries, supports, output, arguments)
    for line in failed:
        print(f"bad  {line}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {len(queries)} images could not be used", file=sys.stderr)
    return 2 if failed else 0


def named(paths: Sequence[Path]) -> list[Query]:
    """Names the results of each picture: its stem, with folder or ending where that is not enough.

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


def _supports(arguments: argparse.Namespace) -> list[Support]:
    supports = [Support(None, *map(Path, pair)) for pair in arguments.support]
    supports += [Support(name, *map(Path, pair)) for name, *pair in arguments.classes]
    for folder in arguments.supports:
        supports += folder_supports(Path(folder))
    if not supports:
        raise UserError(
            "no support: give --support IMAGE MASK, --class NAME IMAGE MASK, or --supports DIR"
        )
    if len({support.name is None for support in supports}) > 1:
        raise UserError(
            "some supports with a class and some without (--support and --class together): name "
            "every support's class, or none"
        )
    return supports


def _check(queries, supports, output, files) -> None:
    """Refuses queries none of which is an image, and results that would replace a given file."""
    refused = None
    for query in queries:
        try:
            open_encoded(read_bytes(query.path), str(query.path))
            break
        except UserError as error:
            refused = refused or error
    else:
        raise refused
    given = {query.path.resolve() for query in queries}
    given |= {path.resolve() for _, *paths in supports for path in paths}
    made = [name for query in queries for name in file_names(query.name, files)]
    for name, count in Counter(made).items():
        if count > 1:
            raise UserError(f"two results would be called {name}: rename a query or a class")
        if (output / name).resolve() in given:
            raise UserError(f"{output / name} is one of the given files: take another --output")


def _predict_all(segmenter, files, queries, supports, output, arguments) -> list[str]:
    """Looks at one query after the other; returns what is wrong with those that cannot be used."""
    rows, cells, failed = [], [], []
    for query in tqdm(queries, desc="looking", unit="picture", disable=None):
        try:
            picture = read_image(query.path)
        except UserError as error:
            failed.append(str(error))
            rows.append({"query": str(query.path), "error": str(error)})
            continue
        answer = next(segmenter.answers([picture.image]))
        made, thumbnail = contents(answer, picture.image, query.name, files)
        for name, content in made.items():
            write_bytes(output / name, content)
        rows.append(row(answer, picture.image, query.path, query.name, files))
        if len(cells) < CONTACT_PICTURES:
            cells.append((caption(answer, query.name), thumbnail))
    settings = {
        "head": None if arguments.untrained else arguments.workdir or "general_head",
        "size": segmenter.matcher.size,
        "supports": [[name, str(image), str(mask)] for name, image, mask in supports],
        "classes": [
            {"name": name, **decision._asdict()}
            for name, decision in zip(segmenter.classes_, segmenter.decisions_, strict=True)
        ],
    }
    write_bytes(output / "contact.png", contact_sheet(supports, cells))
    write_json(output / "results.json", settings | {"queries": rows})
    found = sum(any(x["found"] for x in of_query.get("classes", ())) for of_query in rows)
    print(f"found in {found} of {len(queries)} pictures; {output / 'contact.png'} shows them")
    return failed


def add_head(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which head looks: `workdir` and `size` of `apanet_jax.load`."""
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="of a run that trained a head, or an exported head; default: the head that comes with "
        "this package, trained on drawn pictures",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longer side at which pictures are looked at (default: what the head is for): "
        "larger finds smaller things, and takes longer",
    )


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=called("predict"),
        description=__doc__,
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--support",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "MASK"),
        help="a picture and where the thing is in it; once for each, five are better than one",
    )
    parser.add_argument(
        "--supports",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of them: a.jpg with a_mask.png, a.png or a.json beside it; or a folder of "
        "these for each class, named like it",
    )
    parser.add_argument(
        "--class",
        nargs=3,
        action="append",
        default=[],
        dest="classes",
        metavar=("NAME", "IMAGE", "MASK"),
        help="the same for several things, each with its name",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results go")
    add_head(parser)
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="without a head: every place is compared with the supports' foreground and background",
    )
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="pictures to look at")
    return parser


if __name__ == "__main__":
    main()
