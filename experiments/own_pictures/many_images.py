"""Seconds an image and memory of `apanet_jax.predict`, by the size and the number of the images.

    python experiments/own_pictures/many_images.py [--head=small,dinov2] [--images=30] \
        [--megapixels=0.2,1,12,144] [--endings=.jpg,.png] [--checkout=OTHER] [--own_head] \
        [--repeats=1] [--json=FILE]

Draws images, and has `apanet_jax.predict` look through one of them and through --images, with five
supports of 256x256 pixels. Each is a process of its own (Linux), whose programs were compiled
before. An image takes the difference of the two over the difference of their numbers, since
starting and fitting are in both; where --images is 1 the row has the whole run. --checkout is
another checkout of the project, which is measured in turn with this one; with --own_head it uses
the head that it has by default, as one from before there was a choice. Prints the page for
experiments/results.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.inference.heads.head_choice import HEADS
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import Row
from experiments.own_pictures.first_mask import CLASS, SUPPORTS, draw

HERE, OTHER = "this checkout", "the other"
_DRAWN_SIDE = 512


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    heads = {"type": harness.some_of(HEADS), "default": "small,dinov2"}
    parser.add_argument("--head", **heads, help="heads, of those of predict (small,dinov2)")
    for name, default, meaning in (
        ("megapixels", "0.2,1,12,144", "sizes of the images"),
        ("endings", ".jpg", "kinds of files"),
    ):
        parser.add_argument(f"--{name}", default=default, help=f"{meaning} ({default})")
    harness.add_whole(parser, 1, (("images", 30, "how many"), ("repeats", 1, "how many")))
    parser.add_argument("--checkout", type=Path, help="another checkout, measured in turn")
    own = "the other checkout uses the head that it has by default"
    parser.add_argument("--own_head", action="store_true", help=own)
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints the page."""
    given = arguments().parse_args(argv)
    checkouts = {HERE: harness.ROOT}
    if given.checkout:
        checkouts[OTHER] = given.checkout.resolve()
    load, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        draw(place, 0)
        for ending in given.endings.split(","):
            for megapixels in map(float, given.megapixels.split(",")):
                photos = place / f"{megapixels:g}{ending}"
                draw_large(photos, given.images, megapixels, ending)
                for head in given.head:
                    size = {"head": head, "megapixels": megapixels, "ending": ending}
                    rows += [size | row for row in measure(place, photos, head, checkouts, given)]
    here = harness.environment()
    result = {
        "command": " ".join(
            ["python experiments/own_pictures/many_images.py", *(argv or sys.argv[1:])]
        ),
        "date": time.strftime("%Y-%m-%d"),
        "device": here["device"],
        "versions": here["versions"],
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    }
    harness.publish(result, page(result), given.json)


def draw_large(folder: Path, images: int, megapixels: float, ending: str) -> None:
    """Draws images of three by four, of a square that is drawn and resized."""
    folder.mkdir()
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    for number in range(images):
        rng = np.random.default_rng(10_000 + number)
        image, _ = draw_image(rng, [CLASS_NAMES.index(CLASS)], _DRAWN_SIDE)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:06d}{ending}"), image[..., ::-1])


def measure(place: Path, photos: Path, head: str, checkouts: dict[str, Path], given) -> list[Row]:
    """Returns a row for each checkout: of an image, the least over the repeats."""
    numbers = sorted({1, given.images})
    ended: dict[tuple[str, int], list[harness.Ended]] = {}
    # The first round compiles what is not yet compiled.
    for round_number in range(given.repeats + 1):
        for name, checkout in checkouts.items():
            chosen = None if given.own_head and name == OTHER else head
            for images in numbers if round_number else numbers[:1]:
                run = _predict(place, photos, chosen, checkout, images)
                if round_number:
                    ended.setdefault((name, images), []).append(run)
                print(name, head, photos.name, images, f"{run.seconds:.1f} s", file=sys.stderr)
    rows = []
    for name in checkouts:
        one, many = (ended[name, n] for n in (numbers[0], numbers[-1]))
        row = {"checkout": name, "images": numbers[-1]}
        if given.own_head and name == OTHER:
            row["head"] = "its own"
        for key in ("seconds", "processor_seconds"):
            first, last = (min(getattr(x, key) for x in runs) for runs in (one, many))
            row[key] = round(
                (last - first) / max(numbers[-1] - 1, 1) if many is not one else last, 3
            )
        row["peak_megabytes"] = max(x.peak_bytes for x in many) // 10**6
        row["megabytes_more"] = row["peak_megabytes"] - max(x.peak_bytes for x in one) // 10**6
        rows.append(row)
    return rows


def _predict(
    place: Path, photos: Path, head: str | None, checkout: Path, images: int
) -> harness.Ended:
    command = [sys.executable, "-m", "apanet_jax.predict", *([f"--head={head}"] if head else [])]
    for number in range(SUPPORTS):
        command += ["--support", place / f"support{number}.jpg", place / f"support{number}.png"]
    # What another checkout wrote would look changed, and is refused.
    shutil.rmtree(place / "found", ignore_errors=True)
    command += [f"--output={place / 'found'}", *sorted(photos.iterdir())[:images]]
    return harness.run(command, place, os.environ | {"PYTHONPATH": str(checkout)})


def page(result: Row) -> str:
    """Returns the page for experiments/results."""
    keys = ("checkout", "head", "ending", "megapixels", "images", "seconds", "processor_seconds")
    heads = ("", "head", "files", "megapixels", "images", "seconds an image")
    heads += ("processor seconds an image", "peak memory, MB", "more than for one image, MB")
    keys += ("peak_megabytes", "megabytes_more")
    return "\n".join(
        [
            "# Many images, and large ones",
            "",
            f"    {result['command']}",
            "",
            f"{result['date']}. {result['device']}, Python {result['versions']['python']}, jax "
            f"{result['versions']['jax']}. Load average of the machine when it started: "
            f"{result['load_before']:.2f}, when it ended: {result['load_after']:.2f}.",
            "",
            "Five supports; drawn images, resized. Starting, fitting and compiling are left out of "
            "the seconds where there are several images.",
            "",
            harness.table(heads, [[row[key] for key in keys] for row in result["rows"]]),
        ]
    )


if __name__ == "__main__":
    main()
