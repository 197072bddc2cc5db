"""Finds in images of your own what a few of them show with a mask."""

import argparse
from collections.abc import Sequence

from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS, MaskOptions
from apanet_jax.inference.files.prediction_job import FORMATS, prediction_job
from apanet_jax.inference.files.support_folders import Support, folder_supports
from apanet_jax.inference.heads.head_choice import AUTO, HEADS
from apanet_jax.runtime.errors import Parser, called, main_guard
from apanet_jax.runtime.paths import given_path

_DETAILS = """\
MASK is an image (white on black, a palette with one id, or a cut-out with
transparency), JSON of LabelMe, COCO or Label Studio, CVAT's XML, or YOLO's
labels (.txt). Where it holds several classes, write which: MASK.png:3,
MASK.json:beetle. Several masks of one image are joined. QUERY is an image, a
video, a TIFF with several pages, a folder of images, or a pattern in quotes.

DIR then holds, for each NAME of a query: NAME_mask.png (255 where the object
is), NAME_probability.png (128: as likely as not) and NAME_overlay.png. With
--class these are NAME_CLASS_mask.png and so on, and NAME_labels.png is a label
map (1: the first class given, 2: the next). A mask says where the object is if
the image shows one; results.json says of every query and class whether it was
found, a guess: the score is how likely that is. contact.png shows the supports
and the first 24 queries. --format=coco,labelme,yolo,csv writes coco.json,
labelme/NAME.json, yolo/ (images, labels, data.yaml) and instances.csv, with the
connected parts of what was found as instances. What an earlier run left in DIR
is removed first. Images are listed by the quality to be expected of them, the
worst first: correct their masks, and give them back with --fitted.

examples:
  %(prog)s --support a.jpg a_mask.png \\
      --support b.jpg b.json --output=found photos
  %(prog)s --supports=beetles --output=found photos
  %(prog)s --class beetle a.jpg a_mask.png \\
      --class leaf a.jpg leaf.png --output=found "trap/*.jpg"
  %(prog)s --supports=beetles --save=beetles.apanet \\
      --output=found photos
  %(prog)s --fitted=beetles.apanet \\
      --support photos/a.jpg corrected.json --output=found photos
"""


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Segments the queries that the arguments name; returns the command's status."""
    arguments = _parser().parse_intermixed_args(argv)
    job = prediction_job(
        _supports(arguments),
        [str(given_path(query)) for query in arguments.queries],
        arguments.output,
        source=arguments.workdir,
        head=arguments.head,
        size=arguments.size,
        trained=not arguments.untrained,
        options=MaskOptions(
            arguments.threshold, arguments.smallest, arguments.only_found, arguments.refine
        ),
        formats=arguments.format,
        every=arguments.every,
        fitted=arguments.fitted,
        save=arguments.save,
        negatives=[str(given_path(image)) for image in arguments.negative],
    )
    # Imported here, so that wrong arguments are answered at once and --help needs no accelerator.
    from apanet_jax.inference.files.prediction import predict

    return predict(job)


def add_head_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which head is used: those of `apanet_jax.load`."""
    parser.add_argument(
        "--workdir",
        type=given_path,
        metavar="DIR",
        help="of a run that trained a head, or an exported head; default: what --head says",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default=AUTO,
        help="of those that come with this package: small, a head on EfficientNet-Lite0; dinov2, "
        "one on DINOv2-S beside it; drawn, one on Lite0 that saw drawn images alone; auto (the "
        "default), dinov2 where its weights are on this machine or can be downloaded, else small",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longer side at which images are looked at; above the network's own side they are "
        "looked at in tiles, and as a whole besides (default: the network's own side)",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="without a trained head: frozen features are compared with those of the supports' "
        "foreground and background",
    )


def _supports(arguments: argparse.Namespace) -> list[Support]:
    pairs = [(None, *pair) for pair in arguments.support] + arguments.classes
    supports = [Support(name, *map(given_path, paths)) for name, *paths in pairs]
    for folder in arguments.supports:
        supports += folder_supports(folder)
    return supports


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
        help="an image and where the object is in it; once for each, five are better than one",
    )
    parser.add_argument(
        "--supports",
        action="append",
        type=given_path,
        default=[],
        metavar="DIR",
        help="a folder of supports: a.jpg with a_mask.png, a.png or a.json beside it; or a folder "
        "of these for each class, named like it",
    )
    parser.add_argument(
        "--class",
        nargs=3,
        action="append",
        default=[],
        dest="classes",
        metavar=("NAME", "IMAGE", "MASK"),
        help="a support of a class with a name, where there are several classes",
    )
    parser.add_argument(
        "--fitted",
        type=given_path,
        metavar="FILE",
        help="a segmenter that --save wrote, with its supports; those given beside it are added, "
        "and a mask of an image that it has takes the place of the old one",
    )
    parser.add_argument(
        "--negative",
        action="append",
        default=[],
        metavar="IMAGE",
        help="an image, a folder or a pattern in quotes that shows none of the classes; repeat it "
        "for others. What is in it is background, and it tells what is not to be found",
    )
    parser.add_argument(
        "--save",
        type=given_path,
        metavar="FILE",
        help="where the segmenter is kept with its supports, for --fitted and apanet_jax.load; "
        "without queries and --output, that is all",
    )
    parser.add_argument("--output", type=given_path, metavar="DIR", help="where the results go")
    add_head_flags(parser)
    _add_mask_flags(parser)
    parser.add_argument(
        "--format",
        default="png",
        metavar="A,B,…",
        help=f"what is written, of {','.join(FORMATS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="of videos and TIFF files with several pages, the first and every Nth frame after it "
        "(default: all)",
    )
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="images to segment")
    return parser


def _add_mask_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `MaskOptions`."""
    parser.add_argument(
        "--threshold",
        type=float,
        default=DEFAULT_OPTIONS.threshold,
        metavar="PROBABILITY",
        help="above it a pixel is in the mask, between 0 and 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--smallest",
        type=int,
        default=DEFAULT_OPTIONS.smallest,
        metavar="PIXELS",
        help="connected regions of a mask with fewer pixels are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        default=DEFAULT_OPTIONS.refine,
        help="masks and label maps follow the image's own edges (GrabCut); the probabilities stay "
        "as they are (default: %(default)s)",
    )
    parser.add_argument(
        "--only-found",
        action="store_true",
        help="a class that was not found has an empty mask; otherwise the mask shows where it "
        "would be (label maps always leave out what was not found)",
    )


if __name__ == "__main__":
    main()
