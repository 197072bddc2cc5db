"""What preparing COCO costs: time and peak memory on a generated tree in the official layout.

    python experiments/prepare_benchmark.py [--pictures=20000] [--json=FILE]

Makes a COCO 2014 tree of small noisy pictures with eight polygons each in a temporary folder, runs
`python -m apanet_jax.prepare coco` on it in a process of its own, and prints seconds (by the clock
and of processor time) per 1000 pictures and that process's peak memory: once for a quarter of the
pictures, and once for all, to show how memory grows.
"""

import argparse
import importlib.metadata
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from apanet_jax.errors import UserError, main_guard
from apanet_jax.reporting import write_json

HEIGHT, WIDTH = 96, 128
INSTANCES, CORNERS = 8, 24
CATEGORIES = [{"id": i, "name": f"thing {i}", "supercategory": "things"} for i in range(1, 81)]


def make_tree(root: Path, pictures: int) -> None:
    """Makes a tree, two thirds of its pictures in train2014, one in val2014."""
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
    """Prepares a new tree below `root`, and returns a row; memory is of the largest child so far.

    Raises:
      UserError: the command failed.
    """
    tree = root / f"coco{pictures}"
    make_tree(tree, pictures)
    command = [sys.executable, "-m", "apanet_jax.prepare", "coco", "--any_count"]
    command += [f"--images={tree}", f"--annotations={tree / 'annotations'}"]
    start, cpu = time.perf_counter(), _cpu_seconds()
    done = subprocess.run([*command, f"--output={tree / 'records'}"], stdout=subprocess.DEVNULL)
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    if done.returncode:
        raise UserError(f"prepare coco ended with status {done.returncode}")
    annotations = sum(path.stat().st_size for path in (tree / "annotations").iterdir())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "implementation": "apanet_jax",
        "pictures": pictures,
        "height": HEIGHT,
        "width": WIDTH,
        "seconds": round(seconds, 1),
        "seconds_per_1000": round(1000 * seconds / pictures, 2),
        "cpu_seconds": round(cpu, 1),
        "cpu_seconds_per_1000": round(1000 * cpu / pictures, 2),
        "peak_megabytes": round(peak / 1024),
        "annotation_megabytes": round(annotations / 2**20),
    }


def _cpu_seconds() -> float:
    """Processor time of finished children: says more than the clock on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@main_guard
def main() -> None:
    """Measures a quarter of the pictures, then all."""
    parser = argparse.ArgumentParser(
        prog="python experiments/prepare_benchmark.py",
        description="Time and peak memory of preparing a generated COCO tree.",
    )
    parser.add_argument("--pictures", type=int, default=20000, help="in the tree (20000)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    arguments = parser.parse_args()
    if arguments.pictures < 40:
        raise UserError(f"--pictures={arguments.pictures}: expected at least 40")
    with tempfile.TemporaryDirectory() as folder:
        # The smaller first: the system tells the peak of all children together.
        rows = [measure(Path(folder), n) for n in (arguments.pictures // 4, arguments.pictures)]
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
