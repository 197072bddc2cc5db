"""Checks a data set and writes it as records: `python -m apanet_jax.prepare folder --help`."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from apanet_jax.data import records
from apanet_jax.data.source import Source
from apanet_jax.data.sources.annotated import coco_file, labelme
from apanet_jax.data.sources.coco import CROWDS, FOLD_SPLITS, CocoSource
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.runtime.errors import Parser, UserError, called, main_guard

_SHOWN = 20
_WIDTH = 80


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the data set that the arguments name."""
    arguments = _parser().parse_args(argv)
    for name, least in (("min_area", 0), ("shots", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}={getattr(arguments, name)}: expected at least {least}")
    source = arguments.source_of(arguments)
    output = Path(arguments.output)
    try:
        report = records.write(
            source,
            output,
            skip_bad=arguments.skip_bad,
            overwrite=arguments.overwrite,
            min_area=arguments.min_area,
        )
    except records.BadPictures as refused:
        _print_bad(refused.report)
        raise
    _print_bad(report)
    print(report_table(report, source, arguments.shots, arguments.min_area))
    print(f"\nrecords: {output}")


def report_table(report: records.Report, source: Source, shots: int, min_area: int) -> str:
    """Returns how many pictures each class has, and what is too few for `shots` supports."""
    lines = [
        f"{source.name}: {report.pictures['train']} training and {report.pictures['val']} test "
        "pictures",
        "",
        f"{'class':<20}{'novel in':>9}{'train':>8}{'listed':>8}{'test':>8}{'listed':>8}",
    ]
    few: dict[str, list[str]] = {"training": [], "test": []}
    for name in source.class_names:
        fold = next((str(i) for i, fold in enumerate(source.folds) if name in fold), "never")
        train, val = (report.per_class[split][name] for split in ("train", "val"))
        lines.append(f"{name:<20}{fold:>9}{train[0]:>8}{train[1]:>8}{val[0]:>8}{val[1]:>8}")
        if train[1] < shots + 1:
            few["training"].append(f"{name} {train[1]}")
        if val[1] < shots + 1 and fold != "never":
            few["test"].append(f"{name} {val[1]}")
    lines += ["", f"listed: at least {min_area} pixels of the class"]
    if any(few.values()):
        lines += [f"too few listed, {shots} supports and a query need {shots + 1}:"]
    for split, names in few.items():
        if names:
            lines += textwrap.wrap(
                f"  {split:<10}{', '.join(names)}", _WIDTH, subsequent_indent=" " * 12
            )
    if any(few.values()):
        hint = (
            "Train with fewer supports (shots=1), with a smaller min_area=PIXELS, or get more "
            "pictures."
        )
        lines += textwrap.wrap(hint, _WIDTH)
    return "\n".join(lines)


def _print_bad(report: records.Report) -> None:
    for line in report.bad[:_SHOWN]:
        print(f"bad  {line}", file=sys.stderr)
    if len(report.bad) > _SHOWN:
        print(f"bad  … and {len(report.bad) - _SHOWN} more", file=sys.stderr)


def _coco(arguments: argparse.Namespace) -> Source:
    print("reading the annotation files", flush=True)
    return CocoSource(
        arguments.images,
        arguments.annotations,
        split=arguments.split,
        any_count=arguments.any_count,
        crowd=arguments.crowd,
    )


def _synthetic(arguments: argparse.Namespace) -> Source:
    from apanet_jax.data.sources.synthetic import SyntheticSource

    try:
        return SyntheticSource(
            seed=arguments.seed, train=arguments.train, val=arguments.val, size=arguments.size
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=called("prepare"),
        description="Checks every picture and mask of a data set and writes records to train on. "
        "An interrupted command goes on when it is given again.",
    )
    kinds = parser.add_subparsers(title="data sets", required=True, metavar="KIND")

    pascal = kinds.add_parser("pascal", help="PASCAL-5i from the official VOC 2012 and SBD trees")
    pascal.add_argument("--voc", required=True, type=Path, help="VOCdevkit/VOC2012")
    pascal.add_argument("--sbd", required=True, type=Path, help="SBD's benchmark_RELEASE")
    pascal.add_argument(
        "--any_count",
        action="store_true",
        help="accept lists of other lengths than the protocol's 5953 and 1449",
    )
    pascal.set_defaults(source_of=lambda a: PascalSource(a.voc, a.sbd, any_count=a.any_count))

    coco = kinds.add_parser("coco", help="COCO-20i from the official COCO 2014 tree")
    coco.add_argument("--images", required=True, type=Path, help="holds train2014 and val2014")
    coco.add_argument(
        "--annotations",
        required=True,
        type=Path,
        help="holds instances_train2014.json and instances_val2014.json",
    )
    coco.add_argument(
        "--split",
        choices=FOLD_SPLITS,
        default="interleaved",
        help="fold i tests the classes i+1, i+5, i+9, … (interleaved, the default, as in the "
        "paper) or 20i+1 to 20i+20 (consecutive)",
    )
    coco.add_argument(
        "--crowd",
        choices=CROWDS,
        default="ignore",
        help="crowd regions are ignored, 255 (the default), or belong to their class",
    )
    coco.add_argument(
        "--any_count",
        action="store_true",
        help="accept lists of other lengths than the protocol's 82081 and 40137",
    )
    coco.set_defaults(source_of=_coco)

    folder = kinds.add_parser("folder", help="your own pictures, in VOC's layout with folds.json")
    folder.add_argument(
        "--source",
        required=True,
        type=Path,
        metavar="DIR",
        help="holds JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt, "
        "classes.txt and folds.json",
    )
    folder.set_defaults(source_of=lambda a: FolderSource(a.source))

    of_labelme = kinds.add_parser("labelme", help="your own pictures, with LabelMe's JSON beside")
    of_labelme.add_argument(
        "--source", required=True, type=Path, metavar="DIR", help="holds them, in folders or not"
    )
    of_labelme.set_defaults(source_of=lambda a: labelme(a.source, folds=a.folds, test=a.test))

    of_coco = kinds.add_parser("coco_file", help="your own pictures, with one JSON as COCO's")
    of_coco.add_argument(
        "--images", required=True, type=Path, metavar="DIR", help="what file_name starts from"
    )
    of_coco.add_argument(
        "--annotations", required=True, type=Path, metavar="FILE", help="the JSON of all pictures"
    )
    of_coco.set_defaults(
        source_of=lambda a: coco_file(a.images, a.annotations, folds=a.folds, test=a.test)
    )
    for kind in (of_labelme, of_coco):
        kind.add_argument(
            "--folds",
            default="4",
            metavar="N|FILE",
            help="how many, the classes are dealt to them in turn (4); or a JSON list of folds, "
            "each the list of its novel classes",
        )
        kind.add_argument(
            "--test",
            default="4",
            metavar="N|FILE",
            help="every Nth picture is for testing (4); or a file of their names, one a line, "
            "without ending",
        )

    synthetic = kinds.add_parser("synthetic", help="generated pictures of 20 classes in 4 folds")
    synthetic.add_argument("--seed", type=int, default=0, help="which pictures (0)")
    synthetic.add_argument("--train", type=int, default=600, help="training pictures (600)")
    synthetic.add_argument("--val", type=int, default=200, help="test pictures (200)")
    synthetic.add_argument("--size", type=int, default=256, help="side in pixels (256)")
    synthetic.set_defaults(source_of=_synthetic)

    for kind in (pascal, coco, folder, of_labelme, of_coco, synthetic):
        kind.add_argument(
            "--output", required=True, type=Path, metavar="RECORDS", help="where the records go"
        )
        kind.add_argument(
            "--skip_bad", action="store_true", help="leave out pictures that cannot be used"
        )
        kind.add_argument("--overwrite", action="store_true", help="replace what is there")
        kind.add_argument(
            "--shots", type=int, default=5, metavar="K", help="supports to have enough for (5)"
        )
        kind.add_argument(
            "--min_area",
            type=int,
            default=2048,
            metavar="PIXELS",
            help="of a class, which put a picture on its list (2048)",
        )
    return parser


if __name__ == "__main__":
    main()
