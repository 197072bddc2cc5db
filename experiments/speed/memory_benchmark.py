"""Peak memory of training and of evaluation, over ten times the steps and episodes.

    python experiments/speed/memory_benchmark.py --config=configs/folder.py:records=RECORDS \
        [--steps=60] [--episodes=100] [--json=FILE]

Runs `python -m apanet_jax.main` as a user would, once with the given number and once with ten times
as many, each in a process of its own, and asks the system (Linux) for the most memory that it held:
its own, and with the pages of files that it read, such as kept features, which the system takes
back when it needs them. Worker processes are not counted: pass `workers=0`, or add theirs.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import Row


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    # It is passed on as it is.
    parser.add_argument("--config", required=True, help="settings, as for apanet_jax.main")
    steps, episodes = ({"type": harness.whole(1), "default": n} for n in (60, 100))
    parser.add_argument("--steps", **steps, help="of training (60)")
    parser.add_argument("--episodes", **episodes, help="of evaluation, at each shot (100)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each of the four runs."""
    given = arguments().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(given.config, Path(folder), given.steps, given.episodes))
    lines = [[row[key] for key in ("of", "count", "own_mb", "with_files_mb")] for row in rows]
    result = harness.environment() | {"config": given.config, "rows": rows}
    heads = ("", "steps or episodes", "its own, MB", "with files, MB")
    harness.publish(result, harness.table(heads, lines), given.json)


def measure(config: str, folder: Path, steps: int, episodes: int) -> Iterator[Row]:
    """Yields the rows: training and ten times as much, evaluation and ten times as much."""
    for count in (steps, 10 * steps):
        peaks = _peaks("train", config, folder / str(count), f"training.steps={count}")
        yield {"of": "training", "count": count} | peaks
    # The number of steps belongs to a trained run's settings.
    trained = folder / str(steps), f"training.steps={steps}"
    for count in (episodes, 10 * episodes):
        peaks = _peaks("evaluate", config, *trained, f"evaluation.episodes={count}")
        yield {"of": "evaluation", "count": count} | peaks


def _peaks(mode: str, config: str, workdir: Path, *settings: str) -> Row:
    """Returns the most memory that a run held, in MB (10^6 bytes): `own_mb`, `with_files_mb`."""
    command = [sys.executable, "-m", "apanet_jax.main", f"--config={config}", f"--mode={mode}"]
    settings = (*settings, "evaluation.pictures=0", "evaluation.bundled=0")
    flags = [f"--workdir={workdir}", *(f"--config.{setting}" for setting in settings)]
    ended = harness.run([*command, *flags], harness.ROOT)
    print(f"{mode}, {settings[0]}: {ended.seconds:.0f} s", file=sys.stderr, flush=True)
    return {"own_mb": ended.own_bytes // 10**6, "with_files_mb": ended.peak_bytes // 10**6}


if __name__ == "__main__":
    main()
