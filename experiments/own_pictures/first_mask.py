"""From a wheel to the first mask, as a new user would: seconds and memory.

    python experiments/own_pictures/first_mask.py [--many=300] [--json=FILE] [--markdown=FILE]

Builds a wheel of the checkout (not timed). Then, in an empty folder with a fresh virtual
environment and a home of its own, so that nothing was compiled or downloaded before: `pip install`
of the wheel; `apanet-jax predict` of one drawn picture with one support, twice, the first time with
nothing compiled; then with five supports one picture, --some pictures and --many. Each command is a
process of its own. What a picture takes is told by the difference between --some and --many, since
starting and compiling are in both; so is whether memory grows with the pictures. Peaks are those of
the process alone (Linux).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError, main_guard
from experiments.harness import environment, run

ROOT = Path(__file__).parents[2]
THING = "butterfly"
SUPPORTS = 5

Row = dict[str, Any]


def draw(folder: Path, pictures: int) -> None:
    """Leaves `SUPPORTS` drawn pictures with masks in `folder`, and `pictures` in its `photos`."""
    (folder / "photos").mkdir(parents=True)
    thing = CLASS_NAMES.index(THING)
    for number in range(SUPPORTS + pictures):
        image, label = draw_image(np.random.default_rng(number), [thing], 256)
        is_support = number < SUPPORTS
        path = folder / (f"support{number}.jpg" if is_support else f"photos/{number:06d}.jpg")
        cv2.imwrite(str(path), image[..., ::-1])
        if is_support:
            cv2.imwrite(str(path.with_suffix(".png")), np.uint8(255) * (label == thing + 1))


def build_wheel(folder: Path) -> Path:
    """Returns a wheel of the checkout, built in `folder` from a copy of what git knows.

    Raises:
      UserError: there is no git, or the wheel cannot be built.
    """
    source = folder / "source"
    source.mkdir()
    listed = run(["git", "ls-files", "-z"], ROOT).output.split("\0")
    names = [name for name in listed if name and (ROOT / name).is_file()]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source], folder)
    return next(folder.glob("*.whl"))


def _megabytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) // 10**6


def measure(folder: Path, some: int, many: int, say=print) -> tuple[list[Row], list[str]]:
    """Returns a row for each command, and the installed versions that matter.

    Args:
      folder: an empty one.
      some, many: pictures, of the last two commands.
      say: is told each row.
    """
    wheel = build_wheel(folder)
    home, place = folder / "home", folder / "empty"
    home.mkdir()
    draw(place, many)
    environment_folder = folder / "environment"
    venv.create(environment_folder, with_pip=True)
    programs = environment_folder / "bin"
    # Nothing of this process's Python, nor anything that was compiled before.
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    variables = {k: v for k, v in os.environ.items() if k not in hidden}
    at_home = variables | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    rows: list[Row] = []

    def timed(what: str, command: list, variables, pictures: int = 0, supports: int = 0) -> None:
        ended = run(command, place, variables)
        row = {
            "what": what,
            "pictures": pictures,
            "supports": supports,
            "seconds": round(ended.seconds, 2),
            "processor_seconds": round(ended.processor_seconds, 2),
            "peak_megabytes": ended.peak_bytes // 10**6,
        }
        rows.append(row)
        say(f"{what}: {row['seconds']} s, {row['peak_megabytes']} MB")

    def predict(what: str, pictures: int, supports: int) -> None:
        given = [
            part
            for number in range(supports)
            for part in ("--support", f"support{number}.jpg", f"support{number}.png")
        ]
        queries = sorted((place / "photos").iterdir())[:pictures]
        output = place / f"found{len(rows)}"
        command = [programs / "apanet-jax", "predict", *given, f"--output={output}", *queries]
        timed(what, command, at_home, pictures, supports)
        masks = len(list(output.glob("*_mask.png")))
        if masks != pictures:
            raise UserError(f"{masks} masks of {pictures} pictures are there after: {what}")

    install = [programs / "pip", "install", "-q", "--no-cache-dir", wheel]
    # pip's own settings may lie in the user's home.
    timed("pip install, nothing cached", install, variables)
    rows[-1]["installed_megabytes"] = _megabytes(environment_folder)
    predict("first mask, nothing compiled", 1, 1)
    predict("the same again", 1, 1)
    predict("five supports, nothing of theirs compiled", 1, SUPPORTS)
    for count in (some, many):
        predict(f"five supports, {count} pictures", count, SUPPORTS)
    names = ("jax", "jaxlib", "flax", "numpy")
    program = f"import importlib.metadata as m; [print(x, m.version(x)) for x in {names}]"
    told = run([programs / "python", "-c", program], place, variables)
    return rows, told.output.splitlines()


def per_picture(some: Row, many: Row) -> dict[str, float]:
    """Returns what a picture takes once all is compiled, from runs that differ in their number."""
    pictures = many["pictures"] - some["pictures"]
    return {
        "seconds_per_picture": round((many["seconds"] - some["seconds"]) / pictures, 3),
        "megabytes_more": many["peak_megabytes"] - some["peak_megabytes"],
    }


def markdown(result: dict[str, Any]) -> str:
    """Returns the page for experiments/results."""
    some, many = result["rows"][-2:]
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
        "Drawn pictures of 256x256 pixels, looked at in the default size. How long pip takes "
        "depends on the network above all.",
        "",
        "| | supports | pictures | seconds | processor seconds | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        shown = [row[name] or "" for name in ("supports", "pictures")]
        shown += [row[name] for name in ("seconds", "processor_seconds", "peak_megabytes")]
        lines.append("| " + " | ".join(map(str, [row["what"], *shown])) + " |")
    lines += [
        "",
        f"Between {some['pictures']} and {many['pictures']} pictures each took "
        f"{result['seconds_per_picture']} s, and the peak was {result['megabytes_more']:+d} MB.",
    ]
    return "\n".join(lines) + "\n"


@main_guard
def main() -> None:
    """Measures, prints the page, and writes what was asked for."""
    parser = Parser(
        prog="python experiments/own_pictures/first_mask.py",
        description="From a wheel to the first mask: seconds and memory in a fresh environment.",
    )
    parser.add_argument("--some", type=int, default=30, help="pictures to look through (30)")
    parser.add_argument("--many", type=int, default=300, help="and more of them (300)")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--markdown", type=Path, help="write a page there")
    arguments = parser.parse_args()
    if not 1 <= arguments.some < arguments.many:
        raise UserError(
            f"--some={arguments.some} --many={arguments.many}: expected at least 1, and more of "
            "the latter"
        )
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows, installed = measure(
            Path(folder).resolve(),
            arguments.some,
            arguments.many,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
    told = environment()
    result = {
        "command": " ".join(["python experiments/own_pictures/first_mask.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "device": told["device"],
        "versions": {"python": told["versions"]["python"]},
        "installed": installed,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    } | per_picture(*rows[-2:])
    page = markdown(result)
    print(page)
    if arguments.json:
        write_json(arguments.json, result)
    if arguments.markdown:
        write_bytes(arguments.markdown, page.encode())


if __name__ == "__main__":
    main()
