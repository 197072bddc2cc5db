"""Peak memory of training and of evaluation, over ten times the steps and episodes.

    python experiments/speed/memory_benchmark.py --config=configs/folder.py:records=RECORDS \\
        [--steps=60] [--episodes=100] [--json=FILE]

Runs `python -m apanet_jax.main` as a user would, once with the given number and once with ten times
as many, each in a process of its own, and asks the system (Linux) for the most memory it held: of
its own, and with the pages of files that it looked at, such as kept features, which the system
takes back when it needs them. Worker processes are not counted: pass `workers=0`, or add theirs.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser, UserError, main_guard

_SECONDS_BETWEEN_LOOKS = 0.05


@main_guard
def main() -> None:
    """Prints a row for each of the four runs."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="as for apanet_jax.main")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--episodes", type=int, default=100, help="of evaluation, at each shot")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(given.config, Path(folder), given.steps, given.episodes))
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        print(f"{before['of']}: {after['own_mb'] / before['own_mb']:.2f} times the memory")
    if given.json:
        write_json(given.json, {"config": given.config, "rows": rows})


def measure(config: str, folder: Path, steps: int, episodes: int):
    """Yields the rows: training and ten times as much, evaluation and ten times as much."""
    for count in (steps, 10 * steps):
        peaks = peak_megabytes("train", config, folder / str(count), training_steps=count)
        yield _told({"of": "training", "steps": count, **peaks})
    # The number of steps belongs to a trained run's settings.
    trained = {"workdir": folder / str(steps), "training_steps": steps}
    for count in (episodes, 10 * episodes):
        peaks = peak_megabytes("evaluate", config, **trained, evaluation_episodes=count)
        yield _told({"of": "evaluation", "episodes": count, **peaks})


def peak_megabytes(mode: str, config: str, workdir: Path, **settings: int) -> dict[str, int]:
    """Returns the most memory that a run held, in MB (10^6 bytes): `own_mb`, `with_files_mb`.

    Args:
      mode: of `apanet_jax.main`.
      config: the config with its options.
      workdir: of the run.
      **settings: whole numbers to set, `section_name=value`.

    Raises:
      UserError: the run failed.
    """
    flags = [f"--config.{name.replace('_', '.', 1)}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "apanet_jax.main", f"--config={config}", f"--mode={mode}"]
    process = subprocess.Popen(
        [*command, f"--workdir={workdir}", "--config.evaluation.pictures=0", *flags],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    own = whole = 0
    while process.poll() is None:
        held = _kilobytes(process.pid)
        own, whole = max(own, held.get("RssAnon", 0)), max(whole, held.get("VmHWM", 0))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise UserError(f"{mode} failed, see above: {json.dumps(settings)}")
    return {"own_mb": own * 1024 // 10**6, "with_files_mb": whole * 1024 // 10**6}


def _kilobytes(process: int) -> dict[str, int]:
    """Returns what the system says of a process's memory; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kilobytes) for name, kilobytes, _ in fields}


def _told(row: dict) -> dict:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
