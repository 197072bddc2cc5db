"""The table and the page of what kmeans_benchmark.py measured.

    python experiments/speed/kmeans_report.py FILE.json [FILE.json …] [--markdown=FILE.md]

Several files, of runs with other shapes on one machine, make one page. What follows the page's
first second-level heading are notes by hand: they stay when the page is written again.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed.kmeans_peers import Shape


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what --json wrote")
    parser.add_argument("--markdown", type=Path, help="write a page there")
    return parser


def table(result: Row) -> str:
    """Returns Markdown: a line a shape, a column an implementation, milliseconds."""
    names = list(dict.fromkeys(row["implementation"] for row in result["rows"]))
    cells = {(_shape(row), row["implementation"]): row for row in result["rows"]}
    lines = []
    for shape in dict.fromkeys(_shape(row) for row in result["rows"]):
        own = cells[shape, OURS]
        others = [
            cells[shape, name]["seconds"]
            for name in names
            if name != OURS and "seconds" in cells.get((shape, name), {})
        ]
        line = [f"{shape[0]} x {shape[1]} x {shape[2]}, {shape[3]}"]
        line += [_cell(cells.get((shape, name)), own["inertia"]) for name in names]
        line.append(f"{min(others) / own['seconds']:.2f}" if others else "")
        lines.append([*line, f"{own['bytes_per_second'] / own['read_bytes_per_second']:.2f}"])
    heads = ["batch x positions x channels, k", *names, "best peer / ours", "reads / ours"]
    return harness.table(heads, lines)


def _shape(row: Row) -> tuple:
    return tuple(row[name] for name in Shape._fields)


def _cell(row: Row | None, best: float) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    more = row["inertia"] / best - 1 if best > 0 else 0.0
    differs = f", inertia {100 * more:+.2f} %" if abs(more) >= 5e-5 else ""
    return harness.milliseconds(row, ".4g") + differs


def page(result: Row) -> str:
    """Returns the page for experiments/results."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Cosine k-means: time for all rounds",
        "",
        *[f"    {command}" for command in result["commands"]],
        "",
        f"{result['device']}. {versions}.",
        f"Load average of the machine when it started: {result['load_average'][0]:.2f}.",
        "",
        "Milliseconds: median (fastest to slowest repetition), for the same unit vectors, initial",
        "centres and rounds. Inertia relative to ours where it differs by 0.005 % or more. Last",
        "column: the time of plain reads of the features, one a round and one for the last",
        "assignment, over our time.",
        "",
        table(result),
    ]
    notes = {row["implementation"]: row["note"] for row in result["rows"] if "note" in row}
    lines += [f"- {name}: {note}." for name, note in notes.items()]
    lines += [f"- {name}: {reason}." for name, reason in result["left_out"].items()]
    lines += [f"- {name}: missing here ({reason})." for name, reason in result["missing"].items()]
    lines += [
        f"- {row['implementation']} failed for {_shape(row)}: {row['failed']}"
        for row in result["rows"]
        if "failed" in row
    ]
    return "\n".join(lines) + "\n"


def together(results: list[dict[str, Any]]) -> Row:
    """Returns several runs as one; the device and the load are those of the first."""
    joined = dict(results[0])
    joined["rows"] = [row for result in results for row in result["rows"]]
    joined["commands"] = [line for result in results for line in result["commands"]]
    for name in ("missing", "left_out"):
        joined[name] = {peer: why for result in results for peer, why in result[name].items()}
    return joined


@harness.command
def main(argv: list[str] | None = None) -> None:
    """Reads the rows, prints the table, and writes a page that keeps its notes."""
    given = arguments().parse_args(argv)
    try:
        result = together([json.loads(file.read_text()) for file in given.files])
        print(table(result))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{error}: expected files that kmeans_benchmark.py --json wrote") from None
    if given.markdown:
        harness.write_page(given.markdown, page(result))


if __name__ == "__main__":
    main()
