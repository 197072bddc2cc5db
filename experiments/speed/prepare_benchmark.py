"""What preparing COCO costs: time and peak memory on a generated tree in the official layout.

    python experiments/speed/prepare_benchmark.py [--pictures=20000] [--json=FILE]

Makes a COCO 2014 tree of small noisy pictures with eight polygons each in a temporary folder, runs
`python -m apanet_jax.prepare coco` on it in a process of its own, and prints seconds (by the clock
and of processor time) per 1000 pictures and that process's peak memory: once for a quarter of the
pictures, and once for all. Beside it stands the peak of a process that only reads the annotations:
what is above it belongs to the pictures, and must not grow with their number. A last row reads
annotations for as many pictures as COCO 2014 has.
"""

import importlib.metadata
import json
import platform
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser, UserError, main_guard
from experiments.harness import run

HEIGHT, WIDTH = 96, 128
INSTANCES, CORNERS = 8, 24
COCO_PICTURES = 82_081 + 40_137
CATEGORIES = [{"id": i, "name": f"thing {i}", "supercategory": "things"} for i in range(1, 81)]


def make_tree(root: Path, pictures: int, *, files: bool = True) -> None:
    """Makes a tree, two thirds of its pictures in train2014, one in val2014.

    Args:
      root: where to.
      pictures: how many.
      files: whether the pictures themselves are written, or only annotations.
    """
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    train = pictures * 2 // 3
    for split, count in (("train", train), ("val", pictures - train)):
        folder = root / f"{split}2014"
        folder.mkdir()
        images, annotations = [], []
        for image_id in range(1, count + 1):
            name = f"COCO_{split}2014_{image_id:012d}.jpg"
            if files:
                noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
                cv2.imwrite(str(folder / name), noise)
            images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for _ in range(INSTANCES):
                centre = rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10))
                corners = centre + circle * rng.uniform(4, 30) * rng.uniform(0.7, 1, (CORNERS, 1))
                inside = np.clip(corners, 0, (WIDTH, HEIGHT))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": int(rng.integers(1, 81)),
                        "iscrowd": 0,
                        "segmentation": [inside.round(2).ravel().tolist()],
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        path = root / "annotations" / f"instances_{split}2014.json"
        path.write_text(json.dumps(content))


def measure(root: Path, pictures: int) -> dict[str, float | int | str]:
    """Prepares a new tree of `pictures` below `root`, and returns a row.

    Raises:
      UserError: the command failed.
    """
    tree = root / f"coco{pictures}"
    make_tree(tree, pictures)
    folders = [f"--images={tree}", f"--annotations={tree / 'annotations'}"]
    command = [sys.executable, "-m", "apanet_jax.prepare", "coco", "--any_count", *folders]
    took = run([*command, f"--output={tree / 'records'}"])
    return _row(tree, pictures) | {
        "seconds": round(took.seconds, 1),
        "seconds_per_1000": round(1000 * took.seconds / pictures, 2),
        "cpu_seconds": round(took.processor_seconds, 1),
        "cpu_seconds_per_1000": round(1000 * took.processor_seconds / pictures, 2),
        "peak_megabytes": round(took.peak_bytes / 2**20),
        "peak_megabytes_annotations_alone": _read_alone(tree),
    }


def measure_annotations(root: Path, pictures: int) -> dict[str, float | int | str]:
    """Reads the annotations of `pictures` pictures that are not there, and returns a row."""
    tree = root / f"annotations{pictures}"
    make_tree(tree, pictures, files=False)
    return _row(tree, pictures) | {"peak_megabytes_annotations_alone": _read_alone(tree)}


def _row(tree: Path, pictures: int) -> dict[str, float | int | str]:
    annotations = sum(path.stat().st_size for path in (tree / "annotations").iterdir())
    return {
        "implementation": "apanet_jax",
        "pictures": pictures,
        "height": HEIGHT,
        "width": WIDTH,
        "annotation_megabytes": round(annotations / 2**20),
    }


def _read_alone(tree: Path) -> int:
    program = (
        "import sys, apanet_jax.prepare; from apanet_jax.data.sources.coco import CocoSource; "
        "CocoSource(sys.argv[1], sys.argv[1] + '/annotations', any_count=True)"
    )
    return round(run([sys.executable, "-c", program, tree]).peak_bytes / 2**20)


@main_guard
def main() -> None:
    """Measures a quarter of the pictures, then all."""
    parser = Parser(
        prog="python experiments/speed/prepare_benchmark.py",
        description="Time and peak memory of preparing a generated COCO tree.",
    )
    parser.add_argument("--pictures", type=int, default=20000, help="in the tree (20000)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    arguments = parser.parse_args()
    if arguments.pictures < 40:
        raise UserError(f"--pictures={arguments.pictures}: expected at least 40")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), n) for n in (arguments.pictures // 4, arguments.pictures)]
        rows.append(measure_annotations(Path(folder), COCO_PICTURES))
    names = ("numpy", "pycocotools", "tensorflow-datasets", "array_record")
    result = {
        "device": f"{platform.machine()} CPU",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
