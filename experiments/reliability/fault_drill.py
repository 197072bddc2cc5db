"""Kills tiny runs at random moments, harms others, and checks whether they end the same.

    python experiments/reliability/fault_drill.py --kills=30 --output=experiments/results

`--kills` times a process gets SIGKILL at a random moment of one of five phases (preparing the
records, keeping features, training, writing a checkpoint, evaluating; they take turns); then the
same command is given again and must end with the same records, bit by bit the same training state
and the same results.json as an undisturbed run. Where a process ended before its moment came, an
earlier moment is tried. Then come the faults of `faults.py`, each once.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.atomic_files import write_bytes
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.reliability.faults import FAULTS, Row, meet
from experiments.reliability.tiny_runs import (
    EVERY,
    LOOK_EVERY,
    STEPS,
    Drill,
    fingerprint_of,
    finished,
    outcome,
    steps_of,
)

PHASES = {
    "prepare": "prepare",
    "features": "keeping features",
    "step": "training",
    "checkpoint": "writing a checkpoint",
    "evaluation": "evaluation",
}
_TRIES = 12


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--kills", type=harness.whole(0), default=30, help="how many (30)")
    parser.add_argument("--seed", type=harness.whole(0), default=0, help="of the moments (0)")
    together = {"type": harness.whole(1), "default": 1}
    parser.add_argument("--together", **together, help="processes at a time (1)")
    faults = harness.some_of(FAULTS, all=list(FAULTS), none=[])
    parser.add_argument("--faults", type=faults, default="all", help="all, none or some, by name")
    parser.add_argument("--output", type=Path, help="folder for fault_drill.md")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the drill that the arguments describe; returns 1 where something ended differently."""
    given = arguments().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fault_drill_") as folder:
        rows = drill(Path(folder), given)
    print(report(rows, given))
    return int(any(row.wrong for row in rows))


def drill(root: Path, given: argparse.Namespace) -> list[Row]:
    """Returns a row for each fault; `root` takes the records and workdirs."""
    undisturbed = Drill(root)
    lengths = _undisturbed(undisturbed)

    def kill(number: int) -> Row:
        # A generator for each, so that what happens together draws the same.
        rng = random.Random(f"{given.seed} {number}")
        phase = list(PHASES)[number % len(PHASES)]
        return _logged(_killed_and_again(undisturbed, root / f"kill{number}", phase, rng, lengths))

    def fault(name: str) -> Row:
        return _logged(meet(undisturbed, name, random.Random(f"{given.seed} {name}")))

    rows = []
    with ThreadPoolExecutor(given.together) as pool:
        made = [pool.submit(kill, number) for number in range(given.kills)]
        made += [pool.submit(fault, name) for name in given.faults]
        for row in made:
            # What a command says names files of this drill alone.
            found = row.result()
            rows.append(found._replace(said=found.said.replace(f"{root}/", "")))
            _write(rows, given)
    return rows


def _write(rows: Sequence[Row], given: argparse.Namespace) -> None:
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        write_bytes(given.output / "fault_drill.md", report(rows, given).encode())


def _logged(row: Row) -> Row:
    print(f"{'WRONG: ' + row.wrong if row.wrong else 'equal'} | {row}", file=sys.stderr, flush=True)
    return row


def report(rows: Sequence[Row], given: argparse.Namespace) -> str:
    """Returns the page of Markdown with a row for each fault."""
    lines = [
        "# Killed, filled up, damaged",
        "",
        f"{STEPS} steps and 40 test episodes on drawn images, EfficientNet-Lite0 at 65x65 with "
        f"kept features, a checkpoint every {EVERY} steps, on the CPU. First {given.kills} "
        "times SIGKILL at random moments of five phases in turn, then other faults; each time the "
        "same command was given again. Equal: the same records, bit by bit the same parameters, "
        "momentum and losses, the same position in the batches, and the same results.json as an "
        "undisturbed run's. Said: the line of the command that met the fault, for SIGKILL that of "
        "the command given again.",
        "",
        f"    python experiments/reliability/fault_drill.py --kills={given.kills} "
        f"--seed={given.seed} --together={given.together}",
        "",
        f"{sum(not row.wrong for row in rows)} of {len(rows)} ended as they should.",
        "",
    ]
    cells = [
        [cell.replace("|", "\\|") for cell in (str(number), *row[:4], row.wrong or "yes")]
        for number, row in enumerate(rows, 1)
    ]
    table = harness.table(("", "fault", "when", "said", "ended with", "equal"), cells)
    return "\n".join(lines) + "\n" + table


def _undisturbed(drill: Drill) -> dict[str, float]:
    """Makes the undisturbed run; returns how long its phases last, in seconds."""
    started = time.perf_counter()
    status, said = finished(drill.start(drill.prepare(drill.root / "timed")))
    lengths = {"prepare": time.perf_counter() - started}
    # Twice: the first time compiles.
    for place in (drill.root / "compiling", drill.whole):
        process = drill.start(drill.train(place, features=place / "features"))
        run, seen = place / "run", {}
        signs = {
            "features": lambda place=place: any((place / "features").glob("*/identity.txt")),
            "training": lambda run=run: _learns(run),
            "checkpoint": lambda run=run: bool(_written(run, EVERY)),
            "checkpointed": (run / "checkpoints" / str(EVERY) / "checksums.json").exists,
            "evaluation": (run / "checkpoints" / str(STEPS) / "checksums.json").exists,
            "results": (run / "results.json").exists,
        }
        while process.poll() is None:
            for name, sign in signs.items():
                if name not in seen and sign():
                    seen[name] = time.perf_counter()
            time.sleep(LOOK_EVERY)
        status, said = finished(process)
        if status or len(seen) < len(signs):
            raise UserError(f"the undisturbed run ended with {status}: {said}; saw {[*seen]}")
    drill.expected = outcome(drill.whole / "run")
    return lengths | {
        "features": seen["training"] - seen["features"],
        "step": seen["evaluation"] - seen["training"],
        "checkpoint": seen["checkpointed"] - seen["checkpoint"],
        "evaluation": seen["results"] - seen["evaluation"],
    }


def _learns(run: Path) -> bool:
    """Returns whether the first step was logged."""
    path = run / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


def _written(run: Path, step: int) -> list[Path]:
    """Returns the folders of a checkpoint, the one it is written in too."""
    return [p for p in (run / "checkpoints").glob(f"{step}*") if p.name.split(".")[0] == str(step)]


def _killed_and_again(
    drill: Drill, root: Path, phase: str, rng: random.Random, lengths: dict[str, float]
) -> Row:
    part, step = rng.uniform(0, 1), rng.randrange(EVERY, STEPS + 1, EVERY)
    for number in range(_TRIES):
        place = root / str(number)
        command = drill.train(place)
        if phase == "prepare":
            command = drill.prepare(place)
        elif phase == "features":
            command = drill.train(place, features=place / "features")
        delay = lengths[phase] * part * 0.6**number
        when = f"{PHASES[phase]}, {delay:.2f} s after its start"
        if phase == "checkpoint":
            when = f"{PHASES[phase]} of step {step}, {delay:.3f} s after its start"
        killed = _killed(drill, command, _begins(phase, place, step), delay)
        # Records without the folder of their parts: only the last words were missing.
        if killed and (phase != "prepare" or not _prepared(place)):
            break
        shutil.rmtree(place)
    else:
        return Row("SIGKILL", when, "", "", "too late each time")
    when += _left(place)
    if phase != "prepare":
        ended, said, wrong = drill.again(place, command)
        return Row("SIGKILL", when, said, f"again: {ended}", wrong)
    status, said = finished(drill.start(command))
    wrong = said if status else ""
    if not status and fingerprint_of(place) != fingerprint_of(drill.whole):
        wrong = "other records"
    return Row("SIGKILL", when, said, f"again: ends with {status}", wrong)


def _prepared(place: Path) -> bool:
    return (place / "records").exists() and not (place / "records.unfinished").exists()


def _begins(phase: str, place: Path, step: int) -> Callable[[], bool]:
    """Returns the question whether a phase has begun."""
    run = place / "run"
    return {
        "prepare": lambda: True,
        "features": lambda: any((place / "features").glob("*/identity.txt")),
        "step": lambda: _learns(run),
        "checkpoint": lambda: bool(_written(run, step)),
        "evaluation": (run / "checkpoints" / str(STEPS) / "checksums.json").exists,
    }[phase]


def _killed(drill: Drill, command: Sequence[str], begins: Callable[[], bool], delay: float) -> bool:
    """Starts a process and kills it `delay` seconds after `begins`; returns whether it could."""
    process = drill.start(command)
    began = None
    while process.poll() is None:
        if began is None and begins():
            began = time.perf_counter()
        if began is not None and time.perf_counter() - began >= delay:
            process.kill()
            finished(process)
            return True
        time.sleep(LOOK_EVERY)
    finished(process)
    return False


def _left(place: Path) -> str:
    """Tells which checkpoints a killed process left, the unfinished ones too."""
    checkpoints = place / "run" / "checkpoints"
    if not checkpoints.exists():
        return ""
    whole = steps_of(place)
    others = sum(p.name not in map(str, whole) for p in checkpoints.iterdir())
    names = ", ".join(map(str, whole)) or "none"
    return f"; left checkpoints {names}" + (f" and {others} unfinished" if others else "")


if __name__ == "__main__":
    main()
