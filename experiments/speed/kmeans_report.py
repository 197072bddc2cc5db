"""The tables, page and picture of kmeans_benchmark.py, from the rows that it wrote.

    python experiments/speed/kmeans_report.py FILE.json [FILE.json …] \
        [--markdown=FILE] [--plot=FILE]

Several files, of runs with other shapes on one machine, make one page. What follows the page's
first second-level heading is notes by hand: it stays when the page is written again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runtime.errors import Parser, UserError, main_guard
from experiments.speed.kmeans_peers import OURS, Shape


def table(result: dict[str, Any]) -> str:
    """Returns Markdown: a line a shape, a column an implementation, milliseconds."""
    names = list(dict.fromkeys(row["implementation"] for row in result["rows"]))
    shapes = list(dict.fromkeys(_key(row) for row in result["rows"]))
    cells = {(_key(row), row["implementation"]): row for row in result["rows"]}
    head = ["batch x positions x channels, k", *names, "best peer / ours", "reads / ours"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for shape in shapes:
        own = cells[shape, OURS]
        others = [
            cells[shape, name]["seconds"]
            for name in names
            if name != OURS and "seconds" in cells.get((shape, name), {})
        ]
        line = [f"{shape[0]} x {shape[1]} x {shape[2]}, {shape[3]}"]
        line += [_cell(cells.get((shape, name)), own["inertia"]) for name in names]
        line.append(f"{min(others) / own['seconds']:.2f}" if others else "")
        line.append(f"{own['bytes_per_second'] / own['read_bytes_per_second']:.2f}")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _key(row) -> tuple:
    return tuple(row[name] for name in Shape._fields)


def _cell(row, best) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    spread = f"{1e3 * row['seconds']:.4g} ({1e3 * row['seconds_min']:.4g}"
    text = f"{spread} to {1e3 * row['seconds_max']:.4g})"
    more = row["inertia"] / best - 1 if best > 0 else 0.0
    return text + (f", inertia {100 * more:+.2f} %" if abs(more) >= 5e-5 else "")


def markdown(result: dict[str, Any], picture: str | None = None) -> str:
    """Returns the page for experiments/results, with a link to a picture beside it."""
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
        "",
    ]
    notes = {row["implementation"]: row["note"] for row in result["rows"] if "note" in row}
    lines += [f"- {name}: {note}." for name, note in notes.items()]
    lines += [f"- {name}: {reason}." for name, reason in result["left_out"].items()]
    lines += [f"- {name}: missing here ({reason})." for name, reason in result["missing"].items()]
    for row in result["rows"]:
        if "failed" in row:
            lines.append(f"- {row['implementation']} failed for {_key(row)}: {row['failed']}")
    if picture:
        lines += ["", f"![Seconds over clusters]({picture})"]
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws seconds over clusters, a panel for each batch, positions and channels."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "seconds" in row]
    panels = list(dict.fromkeys(_key(row)[:3] for row in rows))
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns))
    for axis, panel in zip(axes, panels, strict=False):
        for number, name in enumerate(names):
            own = sorted(
                (row for row in rows if row["implementation"] == name and _key(row)[:3] == panel),
                key=lambda row: row["clusters"],
            )
            middle = [row["seconds"] for row in own]
            low = [row["seconds"] - row["seconds_min"] for row in own]
            high = [row["seconds_max"] - row["seconds"] for row in own]
            axis.errorbar(
                [row["clusters"] for row in own],
                middle,
                (low, high),
                marker="o",
                color=f"C{number}",
                linewidth=2.5 if name == OURS else 1,
                label=name,
            )
        axis.set(title=" x ".join(map(str, panel)), xlabel="clusters", yscale="log")
        axis.set_xticks(sorted({row["clusters"] for row in rows if _key(row)[:3] == panel}))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def write(result: dict[str, Any], page: Path | None, picture: Path | None) -> None:
    """Writes what is asked for; a page that is there keeps its notes."""
    if picture:
        plot(result, picture)
    if page:
        before = page.read_text() if page.exists() else ""
        _, heading, notes = before.partition("\n## ")
        page.write_text(markdown(result, picture and picture.name) + heading + notes)


def together(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns several runs as one; of the machine it tells what the first one does."""
    whole = dict(results[0])
    whole["rows"] = [row for result in results for row in result["rows"]]
    whole["commands"] = [line for result in results for line in result["commands"]]
    for name in ("missing", "left_out"):
        whole[name] = {peer: why for result in results for peer, why in result[name].items()}
    return whole


@main_guard
def main() -> None:
    """Reads the rows, prints the table, and writes what was asked for."""
    parser = Parser(
        prog="python experiments/speed/kmeans_report.py",
        description="The table, page and picture of what kmeans_benchmark.py measured.",
    )
    parser.add_argument("files", nargs="+", type=Path, help="what --json wrote")
    parser.add_argument("--markdown", type=Path, help="write a page with a table there")
    parser.add_argument("--plot", type=Path, help="write a picture there (needs matplotlib)")
    arguments = parser.parse_args()
    try:
        result = together([json.loads(file.read_text()) for file in arguments.files])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{error}: expected files that kmeans_benchmark.py --json wrote") from None
    print(table(result))
    write(result, arguments.markdown, arguments.plot)


if __name__ == "__main__":
    main()
