"""Whether a run ends the same with other workers, after interruptions, and on other devices.

    python experiments/reliability/repeatability.py --output=experiments/results

Runs `python -m apanet_jax.main` on drawn pictures, each time from nothing, features and all. On one
device every number of workers meets every number of interruptions; on the others there is one run
without and one with an interruption, both without workers. An interruption is SIGKILL behind a
random step. Devices are simulated on the CPU.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.atomic_files import write_bytes
from apanet_jax.runtime.errors import Parser, UserError, main_guard
from experiments.reliability.tiny_runs import (
    ROOT,
    Outcome,
    differing,
    environment,
    outcome,
    prepare_command,
    succeed,
    train_command,
)

STEPS, EVERY, BATCH = 24, 4, 8
_LOOK_EVERY = 0.005


class Cell(NamedTuple):
    """One run: its devices, its workers, and how often it is interrupted."""

    devices: int
    workers: int
    interruptions: int


class Done(NamedTuple):
    """What came of a run: the steps behind which it was killed, and what it left."""

    cell: Cell
    killed: list[int]
    outcome: Outcome


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Makes the runs that the arguments describe; returns 1 where equal ones are not."""
    arguments = _parser().parse_args(argv)
    cells = [
        Cell(1, workers, count)
        for workers in arguments.workers
        for count in arguments.interruptions
    ]
    cells += [Cell(n, 0, count) for n in arguments.devices if n > 1 for count in (0, 1)]
    with tempfile.TemporaryDirectory(prefix="repeatability_") as folder:
        root = Path(folder)
        succeed(
            prepare_command(root / "records", train=200, val=60), environment(root / "compiled")
        )
        with ThreadPoolExecutor(arguments.together) as pool:
            done = list(pool.map(lambda cell: run(root, cell, arguments.seed), cells))
    page = report(done, arguments)
    print(page)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.output / "repeatability.md", page.encode())
    return int(any(_differs(one, done) for one in done))


def run(root: Path, cell: Cell, seed: int) -> Done:
    """Makes one run, with its interruptions."""
    place = root / "_".join(map(str, cell))
    environ = environment(root / f"compiled{cell.devices}", cell.devices)
    command = train_command(
        root / "records",
        place / "features",
        place / "run",
        devices=cell.devices,
        workers=cell.workers,
        steps=STEPS,
        checkpoint_every=EVERY,
        log_every=1,
        training__batch_size=BATCH,
        evaluation__batch_size=BATCH,
    )
    rng = random.Random(f"{seed} {cell}")
    killed = sorted(rng.sample(range(1, STEPS), cell.interruptions))
    for step in killed:
        _kill_behind(command, environ, place / "run" / "metrics.jsonl", step)
    succeed(command, environ)
    print(f"done: {cell}, killed behind {killed}", file=sys.stderr, flush=True)
    return Done(cell, killed, outcome(place / "run"))


def _kill_behind(command, environ, metrics: Path, step: int) -> None:
    """Starts a run and kills it when it has logged a step."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=null, stderr=null)
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= step:
            process.kill()
            process.wait()
            return
        time.sleep(_LOOK_EVERY)
    raise UserError(f"{' '.join(command)} ended before step {step} with {process.returncode}")


def _first(one: Done, done: Sequence[Done]) -> Done:
    """Returns the run that another one has to be equal to."""
    return next(other for other in done if other.cell.devices == one.cell.devices)


def _differs(one: Done, done: Sequence[Done]) -> str:
    return differing(one.outcome, _first(one, done).outcome)


def report(done: Sequence[Done], arguments: argparse.Namespace) -> str:
    """Returns the page of Markdown."""
    lines = [
        "# The same again",
        "",
        f"{STEPS} steps of {BATCH} episodes and 40 test episodes on drawn pictures, "
        f"EfficientNet-Lite0 at 65x65, a checkpoint every {EVERY} steps, each run from nothing, "
        "features too. Interrupted by SIGKILL behind random steps. Devices are simulated on the "
        "CPU. Not every combination: all workers and interruptions on one device, and on more "
        "devices a run without and one with an interruption.",
        "",
        f"    python experiments/reliability/repeatability.py --seed={arguments.seed} "
        f"--together={arguments.together}",
        "",
        "Equal: parameters, momentum, losses and results.json bit by bit those of the first row "
        "with as many devices.",
        "",
        "| devices | workers | killed behind steps | SHA-256 of the parameters | equal |",
        "|---|---|---|---|---|",
    ]
    for one in done:
        wrong = _differs(one, done)
        killed = ", ".join(map(str, one.killed)) or "none"
        lines.append(
            f"| {one.cell.devices} | {one.cell.workers} | {killed} | "
            f"`{one.outcome.parameters[:16]}` | {wrong or 'yes'} |"
        )
    lines += [
        "",
        "Against one device, undisturbed. Relative: for losses to the loss, for parameters to the "
        "largest magnitude in the same array.",
        "",
        "| devices | largest relative difference of losses | of parameters | same pixel counts |",
        "|---|---|---|---|",
    ]
    one_device = done[0].outcome
    for one in done:
        if one.cell.devices > 1 and not one.cell.interruptions:
            lines.append(f"| {one.cell.devices} | " + " | ".join(_against(one, one_device)) + " |")
    return "\n".join(lines) + "\n"


def _against(one: Done, expected: Outcome) -> list[str]:
    found = one.outcome
    losses, ours = (np.array([loss for _, loss in x.losses]) for x in (expected, found))
    of_losses = np.max(np.abs(ours - losses) / np.abs(losses))
    of_arrays = max(
        np.max(np.abs(found.arrays[name] - array)) / max(np.max(np.abs(array)), 1e-30)
        for name, array in expected.arrays.items()
    )
    counts, expected_counts = ([r["counts"] for r in x.results] for x in (found, expected))
    return [f"{of_losses:.1e}", f"{of_arrays:.1e}", _same(counts, expected_counts)]


def _same(counts, expected) -> str:
    if counts == expected:
        return "yes"
    pairs = [
        (pair, other)
        for row, expected_row in zip(counts, expected, strict=True)
        for name, other in _flat(expected_row)
        for pair in [dict(_flat(row))[name]]
    ]
    off = max(abs(x - y) for pair, other in pairs for x, y in zip(pair, other, strict=True))
    total = max(max(other) for _, other in pairs)
    return f"no: at most {off} pixels of {total}"


def _flat(counts) -> list[tuple[str, list[int]]]:
    return [("background", counts["background"]), *counts["per_class"].items()]


def _parser() -> Parser:
    parser = Parser(description=__doc__.partition("\n")[0])
    whole = {"type": int, "nargs": "+"}
    parser.add_argument("--workers", default=[0, 1, 3], help="numbers of them (0 1 3)", **whole)
    parser.add_argument("--interruptions", default=[0, 1, 3], help="how many (0 1 3)", **whole)
    parser.add_argument("--devices", default=[1, 2, 4, 8], help="how many (1 2 4 8)", **whole)
    parser.add_argument("--seed", type=int, default=0, help="of the interruptions (0)")
    parser.add_argument("--together", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--output", type=Path, help="folder for repeatability.md")
    return parser


if __name__ == "__main__":
    main()
