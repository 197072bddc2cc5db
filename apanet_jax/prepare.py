"""Checks a data set and writes it as records: `python -m apanet_jax.prepare folder --help`."""

import argparse
import os
from collections.abc import Sequence

from apanet_jax.data.annotations.outlines import CROWDS
from apanet_jax.data.records.preparing import Choices, prepare
from apanet_jax.data.sources.annotated import coco_file, labelme
from apanet_jax.data.sources.coco import FOLD_SPLITS, CocoSource
from apanet_jax.data.sources.coco_label_maps import CocoLabelMapSource
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.joined import JoinedSource
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.data.sources.source import Source
from apanet_jax.data.sources.yolo import yolo
from apanet_jax.runtime.errors import Parser, UserError, called, main_guard
from apanet_jax.runtime.paths import given_path


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the data set that the arguments name."""
    arguments = _parser().parse_args(argv)
    choices = Choices(
        classes=tuple(name.strip() for name in arguments.classes.split(",") if name.strip()),
        min_images=arguments.min_images,
        min_area=arguments.min_area,
        shots=arguments.shots,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    prepare(arguments.source_of(arguments), arguments.output, choices)


def _pascal(arguments: argparse.Namespace) -> Source:
    return PascalSource(
        arguments.voc,
        arguments.sbd,
        labels=arguments.labels,
        train_list=arguments.train_list,
        val_list=arguments.val_list,
        any_count=arguments.any_count,
    )


def _coco(arguments: argparse.Namespace) -> Source:
    if arguments.labels and arguments.annotations:
        raise UserError("--annotations and --labels: both say what is where, give one of them")
    if arguments.labels:
        return CocoLabelMapSource(
            arguments.images,
            arguments.labels,
            split=arguments.split,
            train_list=arguments.train_list,
            val_list=arguments.val_list,
            any_count=arguments.any_count,
        )
    if arguments.annotations is None:
        raise UserError(
            "COCO's annotations are missing: name the folder of its instance files with "
            "--annotations, or one of label maps with --labels"
        )
    if arguments.train_list or arguments.val_list:
        raise UserError(
            "--train_list and --val_list go with --labels: the instance files are lists"
        )
    print("reading the annotation files", flush=True)
    return CocoSource(
        arguments.images,
        arguments.annotations,
        split=arguments.split,
        any_count=arguments.any_count,
        crowd=arguments.crowd,
    )


def _coco_file(arguments: argparse.Namespace) -> Source:
    return coco_file(
        arguments.images,
        arguments.annotations,
        folds=arguments.folds,
        test=arguments.test,
        crowd=arguments.crowd,
    )


def _folder(arguments: argparse.Namespace) -> Source:
    sources: list[Source] = [FolderSource(directory) for directory in arguments.source]
    if arguments.drawn:
        from apanet_jax.data.sources.synthetic import SyntheticSource

        sources.append(SyntheticSource(train=arguments.drawn, val=arguments.drawn // 4))
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _synthetic(arguments: argparse.Namespace) -> Source:
    from apanet_jax.data.sources.synthetic import SyntheticSource

    return SyntheticSource(
        seed=arguments.seed, train=arguments.train, val=arguments.val, size=arguments.size
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=called("prepare"),
        description="Checks every image and mask of a data set and writes records to train on. "
        "An interrupted command goes on when it is given again.",
    )
    kinds = parser.add_subparsers(title="data sets", required=True, metavar="KIND")
    _add_pascal(kinds.add_parser("pascal", help="PASCAL-5i from VOC 2012 and SBD"))
    _add_coco(kinds.add_parser("coco", help="COCO-20i from COCO 2014"))
    _add_folder(kinds.add_parser("folder", help="your own images, in VOC's layout with folds.json"))
    _add_labelme(kinds.add_parser("labelme", help="your own images, with LabelMe's JSON beside"))
    _add_coco_file(
        kinds.add_parser(
            "coco_file",
            help="your own images, with one JSON as COCO's or Label Studio's, or CVAT's XML",
        )
    )
    _add_yolo(kinds.add_parser("yolo", help="your own images, with YOLO's labels"))
    _add_synthetic(kinds.add_parser("synthetic", help="generated images of 20 classes in 4 folds"))
    for kind in kinds.choices.values():
        _add_common(kind)
    return parser


def _add_pascal(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--voc", required=True, type=given_path, metavar="DIR", help="VOCdevkit/VOC2012"
    )
    kind.add_argument("--sbd", type=given_path, metavar="DIR", help="SBD's benchmark_RELEASE")
    kind.add_argument(
        "--labels",
        type=given_path,
        metavar="DIR",
        help="label maps of all images as PNG, in place of SBD's .mat files: a folder of VOC's "
        "tree such as SegmentationClassAug, or a path",
    )
    _add_lists(kind, "5953 and 1449", "VOC's list united with SBD's train_noval.txt", "VOC's")
    kind.set_defaults(source_of=_pascal)


def _add_coco(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--images",
        required=True,
        type=given_path,
        metavar="DIR",
        help="holds train2014 and val2014",
    )
    kind.add_argument(
        "--annotations",
        type=given_path,
        metavar="DIR",
        help="holds instances_train2014.json and instances_val2014.json",
    )
    kind.add_argument(
        "--labels",
        type=given_path,
        metavar="DIR",
        help="holds train2014 and val2014 with a label map (PNG, ids 1 to 80) for each image, in "
        "place of --annotations",
    )
    kind.add_argument(
        "--split",
        choices=FOLD_SPLITS,
        default="interleaved",
        help="fold i tests the classes i+1, i+5, i+9, … (interleaved, the default, as in the "
        "paper) or 20i+1 to 20i+20 (consecutive)",
    )
    _add_crowd(kind)
    _add_lists(kind, "82081 and 40137", "all with a label map", "likewise")
    kind.set_defaults(source_of=_coco)


def _add_folder(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--source",
        required=True,
        action="append",
        type=given_path,
        metavar="DIR",
        help="holds JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt, "
        "classes.txt and folds.json; several are joined, and classes of one name are one class",
    )
    kind.add_argument(
        "--drawn",
        type=int,
        default=0,
        metavar="N",
        help="join as many generated images to train on, as `synthetic` has them (0)",
    )
    kind.set_defaults(source_of=_folder)


def _add_labelme(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--source",
        required=True,
        type=given_path,
        metavar="DIR",
        help="holds them, in folders or not",
    )
    _add_dealing(kind)
    kind.set_defaults(source_of=lambda a: labelme(a.source, folds=a.folds, test=a.test))


def _add_yolo(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--source",
        required=True,
        type=given_path,
        metavar="DIR",
        help="holds images/, labels/ with polygons, and data.yaml with the names of the classes",
    )
    _add_dealing(kind)
    kind.set_defaults(source_of=lambda a: yolo(a.source, folds=a.folds, test=a.test))


def _add_coco_file(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--images", required=True, type=given_path, metavar="DIR", help="what file_name starts from"
    )
    kind.add_argument(
        "--annotations",
        required=True,
        type=given_path,
        metavar="FILE",
        help="the JSON or XML of all images",
    )
    _add_crowd(kind)
    _add_dealing(kind)
    kind.set_defaults(source_of=_coco_file)


def _add_synthetic(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--seed", type=int, default=0, help="which images (0)")
    kind.add_argument("--train", type=int, default=600, help="training images (600)")
    kind.add_argument("--val", type=int, default=200, help="test images (200)")
    kind.add_argument("--size", type=int, default=256, help="side in pixels (256)")
    kind.set_defaults(source_of=_synthetic)


def _add_lists(kind: argparse.ArgumentParser, counts: str, train: str, val: str) -> None:
    for split, default in (("train", train), ("val", val)):
        kind.add_argument(
            f"--{split}_list",
            type=given_path,
            nargs="+",
            default=[],
            metavar="FILE",
            help=f"list files in the form of PFENet's, BAM's or HSNet's, or a folder of them "
            f"(default: {default})",
        )
    kind.add_argument(
        "--any_count",
        action="store_true",
        help=f"accept lists of other lengths than the protocol's {counts}",
    )


def _add_crowd(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--crowd",
        choices=CROWDS,
        default="ignore",
        help="crowd regions (iscrowd=1) are ignored, 255 (the default), or belong to their class",
    )


def _add_dealing(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--folds",
        type=os.path.expanduser,
        default="4",
        metavar="N|FILE",
        help="how many, the classes are dealt to them in turn (4); or a JSON list of folds, "
        "each the list of its novel classes",
    )
    kind.add_argument(
        "--test",
        type=os.path.expanduser,
        default="4",
        metavar="N|FILE",
        help="every Nth image is for testing (4); or a file of their names, one a line, "
        "without ending",
    )


def _add_common(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--output", required=True, type=given_path, metavar="RECORDS", help="where the records go"
    )
    kind.add_argument(
        "--classes",
        default="",
        metavar="A,B,…",
        help="the classes to keep (all); others become background",
    )
    kind.add_argument(
        "--min_images",
        type=int,
        default=0,
        metavar="N",
        help="keep classes with this many listed images, for training and for testing (0)",
    )
    kind.add_argument(
        "--skip_bad", action="store_true", help="leave out images that cannot be used"
    )
    kind.add_argument("--overwrite", action="store_true", help="replace records that are there")
    kind.add_argument(
        "--shots", type=int, default=5, metavar="K", help="supports to have enough for (5)"
    )
    kind.add_argument(
        "--min_area",
        type=int,
        default=2048,
        metavar="PIXELS",
        help="of a class, which put an image on its list (2048)",
    )


if __name__ == "__main__":
    main()
