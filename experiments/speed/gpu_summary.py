"""Prints a short table of what gpu_all.sh has left in a folder.

python experiments/speed/gpu_summary.py FOLDER
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser
from experiments import harness

_NAMING = ("implementation", "path", "backbone", "type", "stored", "shots", "clusters")
_NAMING += ("num_clusters", "steps")
"""What tells rows of a section from each other, for `summary`."""


def summary(folder: Path) -> str:
    """Returns a table of the parts that `gpu_all.sh` ran, and of what their rows say."""
    parts = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    lines = [
        (x["part"], "", f"{x['seconds']} s", "" if not x["status"] else "FAILED") for x in parts
    ]
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text())["rows"]:
            named = [row[key] for key in _NAMING if key in row]
            value = harness.milliseconds(row) + " ms" if "seconds_min" in row else ""
            if "episodes_per_second" in row:
                value = f"{row['episodes_per_second']:.1f} episodes/s"
            wrong = row.get("failed") or row.get("missing") or ("right" in row and not row["right"])
            if value or wrong:
                about = " ".join(map(str, named))
                note = f"missing: {row['missing']}" if "missing" in row else "WRONG" * bool(wrong)
                lines.append((path.stem, about, value, note))
    lines += _between_processes(folder)
    return harness.table(("part", "", "", ""), lines)


def _between_processes(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yields whether two processes ended with the same bits, for each way of training."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("repeat*.json")):
        for row in json.loads(path.read_text())["rows"]:
            if "digest" in row:
                found.setdefault(row["path"], []).append(row["digest"])
    for name, digests in found.items():
        same = len(set(digests)) == 1
        yield f"{len(digests)} processes", name, "the same bits" * same, "" if same else "WRONG"


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("folder", type=Path, help="the folder")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    print(summary(arguments().parse_args(argv).folder))


if __name__ == "__main__":
    main()
