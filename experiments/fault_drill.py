"""Kills a tiny run at random moments and asks whether it ends as an undisturbed one.

    python experiments/fault_drill.py --kills=30 --output=experiments/results

Each time a process gets SIGKILL at a random moment of one of five phases (preparing the records,
keeping features, training, writing a checkpoint, evaluating); then the same command is given again
and must end with the same records, bit by bit the same parameters and the same results.json. The
phases take turns. A process that was done before its moment came counts as "too late".
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from apanet_jax.errors import Parser, UserError, main_guard
from apanet_jax.whole_files import write_bytes

PHASES = ("prepare", "features", "training", "checkpoint", "evaluation")
SETTINGS = (
    "min_area=50,image_size=65,longer_side=65,channels=8,steps=12,training.batch_size=2,"
    "checkpoint_every=3,log_every=2,episodes=20,evaluation.batch_size=2,shots=1,devices=1,"
    "pictures=0"
)
_LOOK_EVERY = 0.002


class Kill(NamedTuple):
    """What came of one kill.

    Attributes:
      phase: in which.
      seconds: from the phase's first sign to the kill; None where the process was done before.
      wrong: what differs from the undisturbed run; empty where nothing does.
    """

    phase: str
    seconds: float | None
    wrong: str


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the drill that the arguments describe; returns 1 where something ended differently."""
    arguments = _parser().parse_args(argv)
    if arguments.kills < 1:
        raise UserError(f"--kills={arguments.kills}: expected at least 1")
    with tempfile.TemporaryDirectory(prefix="fault_drill_") as folder:
        kills = drill(Path(folder), arguments.kills, random.Random(arguments.seed))
    page = report(kills, arguments)
    print(page)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.output / "fault_drill.md", page.encode())
    return int(any(kill.wrong for kill in kills))


def drill(root: Path, count: int, rng: random.Random) -> list[Kill]:
    """Returns what came of `count` kills; `root` takes the records and workdirs."""
    whole = root / "whole"
    lengths = _undisturbed(whole)
    expected = {"prepare": _records_of(whole), "run": _run_of(whole)}
    kills = []
    for number in range(count):
        phase = PHASES[number % len(PHASES)]
        place = root / f"kill{number}"
        command = _prepare(place) if phase == "prepare" else _train(whole, place, phase)
        seconds = _killed(command, _begins(phase, place), rng.uniform(0, lengths[phase]))
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            wrong = f"ends with {done.returncode}: {done.stderr.strip()[-300:]}"
        elif phase == "prepare":
            wrong = "other records" if _records_of(place) != expected["prepare"] else ""
        else:
            wrong = _differs(_run_of(place), expected["run"])
        kills.append(Kill(phase, seconds, wrong))
        print(f"{number + 1} of {count}: {kills[-1]}", file=sys.stderr, flush=True)
    return kills


def report(kills: Sequence[Kill], arguments: argparse.Namespace) -> str:
    """Returns the page of Markdown with a row for each phase."""
    lines = [
        "# Killed at random moments",
        "",
        f"{len(kills)} times SIGKILL (seed {arguments.seed}), then the same command again. Equal: "
        "the same records, bit by bit the same parameters and losses, the same results.json as an "
        f"undisturbed run's. By `python experiments/fault_drill.py --kills={arguments.kills} "
        f"--seed={arguments.seed}`.",
        "",
        "| phase | kills | too late | ended equal |",
        "|---|---|---|---|",
    ]
    for phase in PHASES:
        of_phase = [kill for kill in kills if kill.phase == phase]
        late = sum(kill.seconds is None for kill in of_phase)
        equal = sum(not kill.wrong for kill in of_phase)
        lines.append(f"| {phase} | {len(of_phase)} | {late} | {equal} |")
    lines += [""] + [f"- {kill.phase}: {kill.wrong}" for kill in kills if kill.wrong]
    return "\n".join(lines).rstrip() + "\n"


def _prepare(place: Path) -> list[str]:
    arguments = ["synthetic", "--train=60", "--val=30", "--size=96", "--min_area=50"]
    return [*_python("apanet_jax.prepare"), *arguments, f"--output={place / 'records'}"]


def _train(whole: Path, place: Path, phase: str) -> list[str]:
    features = place if phase == "features" else whole
    options = f"{SETTINGS},records={whole / 'records'},features.directory={features / 'features'}"
    return [
        *_python("apanet_jax.main"),
        f"--config=configs/folder.py:{options}",
        f"--workdir={place / 'run'}",
    ]


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _undisturbed(whole: Path) -> dict[str, float]:
    """Prepares and trains without a kill; returns the phases' lengths in seconds."""
    started = time.perf_counter()
    _succeed(_prepare(whole))
    lengths = {"prepare": time.perf_counter() - started}
    signs = {phase: _begins(phase, whole) for phase in PHASES[1:]}
    seen: dict[str, float] = {}
    process = subprocess.Popen(_train(whole, whole, "features"), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for phase, begins in signs.items():
            if phase not in seen and begins():
                seen[phase] = time.perf_counter()
        time.sleep(_LOOK_EVERY)
    end = time.perf_counter()
    if process.returncode:
        raise UserError(f"the undisturbed run ended with {process.returncode}")
    missing = [phase for phase in signs if phase not in seen]
    if missing:
        raise UserError(f"the undisturbed run showed no sign of {', '.join(missing)}")
    return lengths | {
        "features": seen["training"] - seen["features"],
        "training": seen["evaluation"] - seen["training"],
        # The folder that a checkpoint is written in is there for a moment only.
        "checkpoint": 0.3 * (seen["evaluation"] - seen["checkpoint"]) / 4,
        "evaluation": end - seen["evaluation"],
    }


def _succeed(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def _begins(phase: str, place: Path) -> Callable[[], bool]:
    """Returns the question whether a phase has begun."""
    run, last = place / "run", SETTINGS.partition("steps=")[2].partition(",")[0]
    return {
        "prepare": lambda: True,
        "features": lambda: any((place / "features").glob("*/identity.txt")),
        "training": lambda: (run / "metrics.jsonl").exists(),
        "checkpoint": lambda: any((run / "checkpoints").glob("*-tmp*")),
        "evaluation": lambda: (run / "checkpoints" / last / "checksums.json").exists(),
    }[phase]


def _killed(command: Sequence[str], begins: Callable[[], bool], delay: float) -> float | None:
    """Starts a process and kills it `delay` seconds after `begins`; None where it was done."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = None
    while process.poll() is None:
        if began is None and begins():
            began = time.perf_counter()
        if began is not None and time.perf_counter() - began >= delay:
            process.kill()
            process.wait()
            return time.perf_counter() - began
        time.sleep(_LOOK_EVERY)
    return None


def _records_of(place: Path) -> Any:
    return json.loads((place / "records" / "index.json").read_text())


def _run_of(place: Path) -> dict[str, Any]:
    """Returns what has to be the same of a run: parameters' fingerprint, losses, results."""
    import jax

    from apanet_jax import settings
    from apanet_jax.checkpoint import Checkpoints, abstract_state
    from apanet_jax.run import make_network
    from apanet_jax.weights.load import fingerprint

    workdir = place / "run"
    config = settings.of_run(workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, iterator = checkpoints.restore(
            checkpoints.latest_step(),
            abstract_state(make_network(config).head, config.backbone.name),
            jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        )
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {
        "step": int(state.step),
        "parameters": fingerprint(state.parameters),
        "place among the batches": iterator,
        "losses": [(line["step"], line["loss"]) for line in lines],
        "results": json.loads((workdir / "results.json").read_text()),
    }


def _differs(found: dict[str, Any], expected: dict[str, Any]) -> str:
    return ", ".join(f"other {name}" for name in expected if found[name] != expected[name])


def _parser() -> Parser:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="how many (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--output", type=Path, help="folder for fault_drill.md")
    return parser


if __name__ == "__main__":
    main()
