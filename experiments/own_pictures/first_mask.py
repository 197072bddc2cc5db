"""From a wheel to the first mask, as a new user would: seconds and memory.

    python experiments/own_pictures/first_mask.py [--some=30] [--many=300] [--json=FILE]

Builds a wheel of the checkout (not timed). Then, in an empty folder with a fresh virtual
environment and a home of its own, so that nothing was compiled or downloaded before: `pip install`
of the wheel; `apanet-jax predict` of one drawn image with one support, twice, the first time with
nothing compiled; then with five supports one image, --some images and --many. Each command is a
process of its own, and peaks are those of that process alone (Linux). The time of an image is the
difference between --some and --many, since starting and compiling are in both; so is whether memory
grows with the images. Prints the page for experiments/results.
"""

import os
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row

CLASS = "butterfly"
SUPPORTS = 5
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    some, many = ({"type": harness.whole(1), "default": n} for n in (30, 300))
    parser.add_argument("--some", **some, help="images to look through (30)")
    parser.add_argument("--many", **many, help="and more of them (300)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the page, and writes the rows."""
    given = arguments().parse_args(argv)
    if given.some >= given.many:
        raise UserError(f"--some={given.some} --many={given.many}: expected more of the latter")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows, installed = measure(Path(folder).resolve(), given.some, given.many)
    here = harness.environment()
    words = ["python experiments/own_pictures/first_mask.py", *(argv or sys.argv[1:])]
    result = {
        "command": " ".join(words),
        "date": time.strftime("%Y-%m-%d"),
        "device": here["device"],
        "versions": {"python": here["versions"]["python"]},
        "installed": installed,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    } | per_image(*rows[-2:])
    harness.publish(result, page(result), given.json)


def measure(folder: Path, some: int, many: int) -> tuple[list[Row], list[str]]:
    """Returns a row for each command, and the installed versions that matter.

    Args:
      folder: an empty one.
      some: images of the last command but one.
      many: images of the last command.
    """
    wheel = build_wheel(folder)
    home, place, environment = (folder / name for name in ("home", "empty", "environment"))
    home.mkdir()
    draw(place, many)
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    # Nothing of this process's Python, nor anything that was compiled before.
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    variables = {k: v for k, v in os.environ.items() if k not in hidden}
    install = [programs / "pip", "install", "-q", "--no-cache-dir", wheel]
    # pip's own settings may lie in the user's home.
    rows = [_timed("pip install, nothing cached", install, place, variables)]
    rows[0]["installed_megabytes"] = _megabytes(environment)
    at_home = variables | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    for what, images, supports in (
        ("first mask, nothing compiled", 1, 1),
        ("the same again", 1, 1),
        ("five supports, nothing of theirs compiled", 1, SUPPORTS),
        (f"five supports, {some} images", some, SUPPORTS),
        (f"five supports, {many} images", many, SUPPORTS),
    ):
        output = place / f"found{len(rows)}"
        command = [programs / "apanet-jax", "predict", f"--output={output}"]
        for number in range(supports):
            command += ["--support", f"support{number}.jpg", f"support{number}.png"]
        command += sorted((place / "photos").iterdir())[:images]
        row = _timed(what, command, place, at_home)
        rows.append(row | {"images": images, "supports": supports})
        masks = len(list(output.glob("*_mask.png")))
        if masks != images:
            raise UserError(f"{masks} masks of {images} images are there after: {what}")
    program = f"import importlib.metadata as m; [print(x, m.version(x)) for x in {PACKAGES}]"
    printed = harness.run([programs / "python", "-c", program], place, variables).output
    return rows, printed.splitlines()


def build_wheel(folder: Path) -> Path:
    """Returns a wheel of the checkout, built in `folder` from a copy of what git knows.

    Raises:
      UserError: there is no git, or the wheel cannot be built.
    """
    source = folder / "source"
    source.mkdir()
    listed = harness.run(["git", "ls-files", "-z"], harness.ROOT).output.split("\0")
    for name in filter(None, listed):
        if (harness.ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((harness.ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    harness.run(pip, folder)
    return next(folder.glob("*.whl"))


def draw(folder: Path, images: int) -> None:
    """Draws `SUPPORTS` images with masks in `folder`, and `images` in its `photos`."""
    (folder / "photos").mkdir(parents=True)
    class_id = CLASS_NAMES.index(CLASS)
    for number in range(SUPPORTS + images):
        image, label = draw_image(np.random.default_rng(number), [class_id], 256)
        is_support = number < SUPPORTS
        path = folder / (f"support{number}.jpg" if is_support else f"photos/{number:06d}.jpg")
        cv2.imwrite(str(path), image[..., ::-1])
        if is_support:
            cv2.imwrite(str(path.with_suffix(".png")), np.uint8(255) * (label == class_id + 1))


def _timed(
    what: str, command: Sequence[str | Path], place: Path, variables: Mapping[str, str]
) -> Row:
    ended = harness.run(command, place, variables)
    print(f"{what}: {ended.seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        "what": what,
        "seconds": round(ended.seconds, 2),
        "processor_seconds": round(ended.processor_seconds, 2),
        "peak_megabytes": ended.peak_bytes // 10**6,
    }


def _megabytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) // 10**6


def per_image(some: Row, many: Row) -> dict[str, float]:
    """Returns what an image takes once all is compiled, from runs that differ in their number."""
    images = many["images"] - some["images"]
    return {
        "seconds_per_image": round((many["seconds"] - some["seconds"]) / images, 3),
        "megabytes_more": many["peak_megabytes"] - some["peak_megabytes"],
    }


def page(result: Row) -> str:
    """Returns the page for experiments/results."""
    some, many = result["rows"][-2:]
    keys = ("what", "supports", "images", "seconds", "processor_seconds", "peak_megabytes")
    heads = ("", "supports", "images", "seconds", "processor seconds", "peak memory, MB")
    lines = [
        "# From a wheel to the first mask",
        "",
        f"    {result['command']}",
        "",
        f"{result['date']}. {result['device']}, Python {result['versions']['python']}, "
        f"{', '.join(result['installed'])}. Load average of the machine when it started: "
        f"{result['load_before']:.2f}, when it ended: {result['load_after']:.2f}.",
        "",
        "Each line is a process from its start to its end, in an empty folder with a fresh virtual "
        f"environment ({result['rows'][0]['installed_megabytes']} MB after the installation). "
        "Drawn images of 256x256 pixels, at the default size of predict. How long pip takes "
        "depends on the network above all.",
        "",
        harness.table(heads, [[row.get(key, "") for key in keys] for row in result["rows"]]),
        f"Between {some['images']} and {many['images']} images each took "
        f"{result['seconds_per_image']} s, and the peak was {result['megabytes_more']:+d} MB.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
