"""What preparing COCO costs: time and peak memory on a generated tree in the official layout.

    python experiments/speed/prepare_benchmark.py [--images=20000] [--json=FILE]

Makes a COCO 2014 tree of small noisy images with eight polygons each in a temporary folder, runs
`python -m apanet_jax.prepare coco` on it in a process of its own, and prints processor seconds per
1000 images and that process's peak memory: once for a quarter of the images, and once for all.
Beside it stands the peak of a process that only reads the annotations: what is above it belongs to
the images, and must not grow with their number. A last row reads annotations for as many images as
COCO 2014 has.
"""

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import OURS, Row

HEIGHT, WIDTH = 96, 128
INSTANCES, CORNERS = 8, 24
COCO_IMAGES = 82_081 + 40_137
CATEGORIES = [{"id": i, "name": f"thing {i}", "supercategory": "things"} for i in range(1, 81)]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    images = {"type": harness.whole(40), "default": 20_000}
    parser.add_argument("--images", **images, help="in the tree (20000)")
    return parser


def make_tree(root: Path, images: int, *, files: bool = True) -> None:
    """Makes a tree, two thirds of its images in train2014, a third in val2014.

    Args:
      root: where to.
      images: how many.
      files: whether the images themselves are written, or only annotations.
    """
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    train = images * 2 // 3
    for split, count in (("train", train), ("val", images - train)):
        folder = root / f"{split}2014"
        folder.mkdir()
        listed, annotations = [], []
        for image_id in range(1, count + 1):
            name = f"COCO_{split}2014_{image_id:012d}.jpg"
            if files:
                noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
                cv2.imwrite(str(folder / name), noise)
            listed.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
            annotations += [
                _annotation(rng, image_id, len(annotations) + 1 + number)
                for number in range(INSTANCES)
            ]
        content = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
        path = root / "annotations" / f"instances_{split}2014.json"
        path.write_text(json.dumps(content))


def _annotation(rng: np.random.Generator, image_id: int, number: int) -> Row:
    """Returns a polygon of `CORNERS` corners around a random centre."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    centre = rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10))
    corners = centre + circle * rng.uniform(4, 30) * rng.uniform(0.7, 1, (CORNERS, 1))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": int(rng.integers(1, 81)),
        "iscrowd": 0,
        "segmentation": [np.clip(corners, 0, (WIDTH, HEIGHT)).round(2).ravel().tolist()],
    }


def measure(root: Path, images: int) -> Row:
    """Prepares a new tree of `images` below `root`, and returns a row."""
    tree = root / f"coco{images}"
    make_tree(tree, images)
    folders = [f"--images={tree}", f"--annotations={tree / 'annotations'}"]
    command = [sys.executable, "-m", "apanet_jax.prepare", "coco", "--any_count", *folders]
    took = harness.run([*command, f"--output={tree / 'records'}"])
    return _row(tree, images) | {
        "seconds": round(took.seconds, 1),
        "cpu_seconds": round(took.processor_seconds, 1),
        "cpu_seconds_per_1000": round(1000 * took.processor_seconds / images, 2),
        "peak_megabytes": round(took.peak_bytes / 2**20),
    }


def measure_annotations(root: Path, images: int) -> Row:
    """Reads the annotations of `images` images that are not there, and returns a row."""
    tree = root / f"annotations{images}"
    make_tree(tree, images, files=False)
    return _row(tree, images)


def _row(tree: Path, images: int) -> Row:
    annotations = sum(path.stat().st_size for path in (tree / "annotations").iterdir())
    program = (
        "import sys, apanet_jax.prepare; from apanet_jax.data.sources.coco import CocoSource; "
        "CocoSource(sys.argv[1], sys.argv[1] + '/annotations', any_count=True)"
    )
    read_alone = harness.run([sys.executable, "-c", program, tree])
    return {
        "implementation": OURS,
        "images": images,
        "height": HEIGHT,
        "width": WIDTH,
        "annotation_megabytes": round(annotations / 2**20),
        "peak_megabytes_annotations_alone": round(read_alone.peak_bytes / 2**20),
    }


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures a quarter of the images, then all."""
    given = arguments().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), n) for n in (given.images // 4, given.images)]
        rows.append(measure_annotations(Path(folder), COCO_IMAGES))
    keys = ("images", "cpu_seconds_per_1000", "peak_megabytes", "peak_megabytes_annotations_alone")
    names = ("pycocotools", "array_record")
    result = harness.environment() | {"rows": rows}
    result["versions"] |= {name: importlib.metadata.version(name) for name in names}
    heads = ("images", "processor seconds per 1000", "peak memory, MB", "annotations alone, MB")
    lines = [[row.get(key, "") for key in keys] for row in rows]
    harness.publish(result, harness.table(heads, lines), given.json)


if __name__ == "__main__":
    main()
