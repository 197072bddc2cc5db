"""Segments a collection with Ray Data: each worker opens a saved segmenter and takes shards.

    python experiments/own_pictures/segment_shards.py beetles.apanet --images=DIR --output=DIR \
        [--workers=2] [--shard=16]

An example to copy for collections larger than a machine. `--images` is anything that Ray Data reads
files from, also a bucket; `--output` gets Parquet files with a row for each image: `path`, `mask`
(a PNG of the label map or, without classes' names, of 0 and 1), `quality` and `error`. What cannot
be read has an error and no mask. Ray Data is installed with `pip install "ray[data]"`; on a cluster
the package, the weights and the segmenter's file have to be on every machine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

import apanet_jax
from apanet_jax.data.images.reader import decode_image
from apanet_jax.inference.supports.saved_segmenter import class_names
from apanet_jax.runtime.errors import Parser, UserError, main_guard, needs

Batch = dict[str, np.ndarray]


class Segmenting:
    """What a worker does: it opens the segmenter once, and then takes shard after shard."""

    def __init__(self, file: str):
        """Opens a saved segmenter."""
        self._segmenter = apanet_jax.load(file)

    def __call__(self, shard: Batch) -> Batch:
        """Returns the rows of a shard's images."""
        rows = [self._row(*x) for x in zip(shard["path"], shard["bytes"], strict=True)]
        return {name: np.array([row[name] for row in rows], object) for name in rows[0]}

    def _row(self, path: str, content: bytes) -> dict:
        try:
            image = decode_image(content, Path(path)).image
        except UserError as error:
            return {"path": path, "mask": b"", "quality": float("nan"), "error": str(error)}
        (answer,) = self._segmenter.answers([image])
        named = self._segmenter.classes_ != [""]
        mask = answer.labels() if named else answer.mask(0).astype(np.uint8)
        png = cv2.imencode(".png", mask)[1].tobytes()
        return {"path": path, "mask": png, "quality": answer.quality, "error": ""}


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("segmenter", type=Path, help="what `predict --save` wrote")
    parser.add_argument("--images", required=True, help="a folder or a bucket")
    parser.add_argument("--output", required=True, help="a folder or a bucket")
    parser.add_argument("--workers", type=int, default=2, help="processes that segment (2)")
    parser.add_argument("--shard", type=int, default=16, help="images in a shard (16)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Looks at what is given before Ray starts, whose workers answer with pages.

    Raises:
      UserError: it cannot be used.
    """
    for name in ("workers", "shard"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name}={getattr(given, name)}: expected 1 or more")
    class_names(given.segmenter)
    if _is_local(given.images) and not any(x.is_file() for x in Path(given.images).rglob("*")):
        raise UserError(f"--images={given.images} is no folder with files in it")
    output = Path(given.output)
    if _is_local(given.output) and output.exists() and not _is_empty(output):
        raise UserError(f"--output={output} is there already: give a new folder, or an empty one")


def _is_local(place: str) -> bool:
    return "://" not in place


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Segments the images."""
    given = arguments().parse_args(argv)
    check(given)
    # Imported here, as --help needs no Ray.
    with needs("ray[data]", "this example"):
        import ray

    images = ray.data.read_binary_files(given.images, include_paths=True)
    found = images.map_batches(
        Segmenting,
        fn_constructor_args=(str(given.segmenter.resolve()),),
        batch_size=given.shard,
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        # Half of one each: reading and writing need processors too, and would wait for ever where
        # there are no more than workers.
        num_cpus=0.5,
    )
    found.write_parquet(given.output)


if __name__ == "__main__":
    main()
