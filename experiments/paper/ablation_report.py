"""Tables of ablations: ours by fold and seed, differences to the baseline, the paper's rows."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apanet_jax.reports.paper import published_ablations
from apanet_jax.runtime.atomic_files import write_json, writing
from apanet_jax.runtime.errors import UserError
from experiments import harness
from experiments.harness import Row
from experiments.paper.paired import difference, read_sums
from experiments.paper.run_lines import BASELINE, TRAINING_FREE, RunLine, read_lines, write_csv

Runs = dict[tuple[int, int], Path]
"""The folders of finished runs of one variant, by fold and seed."""


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
      label: its first cell.
      run: the variant that it shows.
      paper: the row's name in the paper's table; "" where it has none.
      against: the variant that it is held against, where that is not the table's.
    """

    label: str
    run: str
    paper: str = ""
    against: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
      paper: its number in the paper; "" where the paper has none.
      title: what its rows differ in.
      rows: its rows.
      baseline: the variant that they are held against.
    """

    paper: str
    title: str
    rows: tuple[TableRow, ...]
    baseline: str = BASELINE

    @property
    def runs(self) -> set[str]:
        """Every variant that the table needs."""
        rows = self.rows
        runs = {row.run for row in rows} | {row.against for row in rows} | {self.baseline}
        return runs - {""}


def write_table(table: Table, workdir: Path, stem: Path, block: int = 0) -> str:
    """Writes a table of finished runs, and returns its Markdown.

    `stem`.md is the table, .json its numbers, and .csv the runs that it is made of.

    Args:
      table: rows without a finished run are left out.
      workdir: holds the runs, `seed*/fold*/<variant>`.
      stem: of the files.
      block: see `paired.read_sums`.

    Raises:
      UserError: nothing was run.
    """
    lines = [line for line in read_lines([workdir]) if line.values["variant"] in table.runs]
    # Of a run that was validated the last checkpoint counts.
    lines = [line for line in lines if line.values["checkpoint"] != "best"]
    rows = [row for one in table.rows for row in _numbers(table, one, lines, block)]
    if not rows:
        raise UserError(f"{workdir} holds no finished run of table {table.paper or table.title}")
    markdown = _markdown(table, rows)
    with writing(stem.with_suffix(".md")) as file:
        file.write(markdown + "\n")
    content = {"table": table.paper, "title": table.title, "rows": rows}
    write_json(stem.with_suffix(".json"), content)
    write_csv(stem.with_suffix(".csv"), lines)
    return markdown


def _numbers(table: Table, row: TableRow, lines: Sequence[RunLine], block: int) -> list[Row]:
    """Returns a row's numbers, for each number of supports."""
    mine = [line.values for line in lines if line.values["variant"] == row.run]
    baseline = row.against or table.baseline
    pairs = _pairs(lines, row.run, baseline) if row.run != baseline else {}
    of_paper = {(p.table, p.row): p for p in published_ablations()}.get((table.paper, row.paper))
    found = []
    for shot in sorted({values["shot"] for values in mine}):
        scores = {(v["fold"], v["seed"]): v["miou"] for v in mine if v["shot"] == shot}
        numbers = {"row": row.label, "run": row.run, "shot": shot} | _means(scores)
        none = dict.fromkeys(("difference", "low", "high", "above", "pairs"))
        numbers |= _against(pairs, shot, block) if pairs else none
        # The paper's rows are of one support.
        beside = of_paper if shot == 1 else None
        numbers["paper_folds"] = list(beside.folds) if beside else None
        numbers["paper_mean"] = beside.mean if beside else None
        found.append(numbers)
    return found


def _finished(lines: Sequence[RunLine], run: str) -> Runs:
    return {
        (line.values["fold"], line.values["seed"]): line.folder
        for line in lines
        if line.values["variant"] == run
    }


def _pairs(
    lines: Sequence[RunLine], run: str, other: str
) -> dict[tuple[int, int], tuple[Path, Path]]:
    """Returns the folders of two variants with the same fold and seed.

    What is not trained has one seed, and stands beside every seed of the other.
    """
    mine, others = _finished(lines, run), _finished(lines, other)

    def of(name: str, runs: Runs, fold: int, seed: int) -> Path | None:
        return runs.get((fold, 0 if name.startswith(TRAINING_FREE) else seed))

    found = {
        key: (of(run, mine, *key), of(other, others, *key)) for key in sorted({*mine, *others})
    }
    return {key: pair for key, pair in found.items() if None not in pair}


def _means(scores: dict[tuple[int, int], float]) -> Row:
    """Returns the means over seeds by fold, and the mean over folds with its spread over seeds.

    Seeds that lack a fold count in the folds they have, and not in the spread.
    """
    folds = sorted({fold for fold, _ in scores})
    seeds = sorted({seed for _, seed in scores})
    by_fold = {
        str(fold): statistics.mean(x for (f, _), x in scores.items() if f == fold) for fold in folds
    }
    complete = [s for s in seeds if all((f, s) in scores for f in folds)]
    of_seeds = [statistics.mean(scores[f, s] for f in folds) for s in complete]
    return {
        "folds": {fold: round(x, 2) for fold, x in by_fold.items()},
        "mean": round(statistics.mean(by_fold.values()), 2),
        "seeds": len(seeds),
        "spread": round(statistics.stdev(of_seeds), 2) if len(of_seeds) > 1 else None,
    }


def _against(pairs: dict[tuple[int, int], tuple[Path, Path]], shot: int, block: int) -> Row:
    sums = {
        key: tuple(read_sums(path, shot, block) for path in pair) for key, pair in pairs.items()
    }
    by_fold: dict[int, list] = {}
    for (fold, _), pair in sums.items():
        by_fold.setdefault(fold, []).append(pair)
    interval = difference(by_fold)
    each = [difference({0: [pair]}, resamples=0).mean for pair in sums.values()]
    return {
        "difference": round(interval.mean, 2),
        "low": round(interval.low, 2),
        "high": round(interval.high, 2),
        "above": sum(x > 0 for x in each),
        "pairs": len(each),
    }


def _markdown(table: Table, rows: Sequence[Row]) -> str:
    folds = sorted({fold for row in rows for fold in row["folds"]})
    heads = [table.title, "shot", *(f"fold {fold}" for fold in folds), "mean mIoU"]
    heads += ["difference [95 %]", "pairs above"]
    heads += ["paper, folds", "paper, mean"] if table.paper else []
    seeds = max(row["seeds"] for row in rows)
    note = (
        f"Novel classes, mIoU in percent; {seeds} seeds, ± their standard deviation. Differences "
        f"are to the run `{table.baseline}` of the same fold and seed"
    )
    note += ", or as the row says." if any(row.against for row in table.rows) else "."
    if table.paper:
        note += " The paper's rows: PASCAL-5i, ResNet-50, 1 shot."
    lines = [_cells(row, folds, beside_paper=bool(table.paper)) for row in rows]
    return f"{harness.table(heads, lines)}\n{note}"


def _cells(row: Row, folds: Sequence[str], *, beside_paper: bool) -> list[Any]:
    spread = "" if row["spread"] is None else f" ± {row['spread']:.1f}"
    cells = [row["row"], row["shot"]]
    cells += [f"{row['folds'][f]:.1f}" if f in row["folds"] else "" for f in folds]
    cells.append(f"{row['mean']:.1f}{spread}")
    if row["difference"] is None:
        cells += ["", ""]
    else:
        cells.append("{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**row))
        cells.append(f"{row['above']} of {row['pairs']}")
    if beside_paper:
        cells.append(" ".join(f"{x:.1f}" for x in row["paper_folds"] or ()))
        cells.append("" if row["paper_mean"] is None else f"{row['paper_mean']:.1f}")
    return cells
