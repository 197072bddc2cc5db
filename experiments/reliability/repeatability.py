"""Whether a run ends the same with other workers, after interruptions, and on other devices.

    python experiments/reliability/repeatability.py --output=experiments/results

Runs `python -m apanet_jax.main` on drawn images, each time from nothing, features too. On one
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
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import ROOT
from experiments.reliability.tiny_runs import (
    Outcome,
    differing,
    outcome,
    prepare_command,
    process_environment,
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
    """A finished run: the steps behind which it was killed, and what it left."""

    cell: Cell
    killed: list[int]
    outcome: Outcome


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    for name, default in (("workers", "0,1,3"), ("interruptions", "0,1,3"), ("devices", "1,2,4,8")):
        count = {"type": harness.numbers, "default": default}
        parser.add_argument(f"--{name}", **count, help=f"numbers of them ({default})")
    parser.add_argument("--seed", type=harness.whole(0), default=0, help="of the interruptions (0)")
    parser.add_argument("--together", type=harness.whole(1), default=1, help="runs at a time (1)")
    parser.add_argument("--output", type=Path, help="folder for repeatability.md")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> int:
    """Makes the runs that the arguments describe; returns 1 where equal ones are not."""
    given = arguments().parse_args(argv)
    if wrong := [n for n in given.devices if n < 1 or BATCH % n]:
        raise UserError(f"--devices={wrong[0]}: expected what {BATCH} episodes can be spread over")
    cells = [Cell(1, workers, count) for workers in given.workers for count in given.interruptions]
    cells += [Cell(n, 0, count) for n in given.devices if n > 1 for count in (0, 1)]
    with tempfile.TemporaryDirectory(prefix="repeatability_") as folder:
        root = Path(folder)
        environ = process_environment(root / "compiled")
        succeed(prepare_command(root / "records", train=200, val=60), environ)
        with ThreadPoolExecutor(given.together) as pool:
            done = list(pool.map(lambda cell: run(root, cell, given.seed), cells))
    page = report(done, given)
    print(page)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        write_bytes(given.output / "repeatability.md", page.encode())
    return int(any(_differs(one, done) for one in done))


def run(root: Path, cell: Cell, seed: int) -> Done:
    """Makes one run, with its interruptions."""
    place = root / "_".join(map(str, cell))
    environ = process_environment(root / f"compiled{cell.devices}", cell.devices)
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


def report(done: Sequence[Done], given: argparse.Namespace) -> str:
    """Returns the page of Markdown."""
    cells = [
        (
            one.cell.devices,
            one.cell.workers,
            ", ".join(map(str, one.killed)) or "none",
            f"`{one.outcome.parameters[:16]}`",
            _differs(one, done) or "yes",
        )
        for one in done
    ]
    heads = ("devices", "workers", "killed behind steps", "SHA-256 of the parameters", "equal")
    one_device = done[0].outcome
    others = [
        (one.cell.devices, *_against(one, one_device))
        for one in done
        if one.cell.devices > 1 and not one.cell.interruptions
    ]
    names = ("devices", "largest relative difference of losses", "of parameters")
    lines = [
        "# The same again",
        "",
        f"{STEPS} steps of {BATCH} episodes and 40 test episodes on drawn images, "
        f"EfficientNet-Lite0 at 65x65, a checkpoint every {EVERY} steps, each run from nothing, "
        "features too. Interrupted by SIGKILL behind random steps. Devices are simulated on the "
        "CPU. Not every combination: all workers and interruptions on one device, and on more "
        "devices a run without and one with an interruption.",
        "",
        f"    python experiments/reliability/repeatability.py --seed={given.seed} "
        f"--together={given.together}",
        "",
        "Equal: parameters, momentum, losses and results.json bit by bit those of the first row "
        "with as many devices.",
        "",
        harness.table(heads, cells),
        "Against one device, undisturbed. Relative: for losses to the loss, for parameters to the "
        "largest magnitude in the same array.",
        "",
        harness.table((*names, "same pixel counts"), others),
    ]
    return "\n".join(lines)


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


if __name__ == "__main__":
    main()
