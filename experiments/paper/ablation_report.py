"""Tables of ablations: ours by fold and seed, differences to the baseline, the paper's rows."""

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apanet_jax.evaluation.results import read_results
from apanet_jax.reports.paper import published_ablations
from apanet_jax.runtime.atomic_files import write_json, writing
from apanet_jax.runtime.errors import UserError
from experiments.paper.paired import difference, read_sums

NO_LEARNING = "free_"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      label: what stands in front.
      run: the folder of the run, below seed and fold.
      paper: the row's name in the paper's table; "" where it has none.
      against: the run that it is held against, where that is not the table's.
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
      baseline: the run that they are held against.
    """

    paper: str
    title: str
    rows: tuple[Row, ...]
    baseline: str = "baseline"

    @property
    def runs(self) -> set[str]:
        """Every run that the table needs."""
        rows = self.rows
        runs = {row.run for row in rows} | {row.against for row in rows} | {self.baseline}
        return runs - {""}


def write_table(table: Table, workdir: Path, stem: Path, block: int = 0) -> str:
    """Writes a table of finished runs as `stem`.md, .csv and .json; returns its Markdown.

    Args:
      table: rows without a finished run are left out.
      workdir: holds the runs, `seed*/fold*/<run>`.
      stem: of the files.
      block: see `paired.read_sums`.

    Raises:
      UserError: nothing was run.
    """
    rows = [line for row in table.rows for line in _lines(table, row, workdir, block)]
    if not rows:
        raise UserError(f"{workdir} holds no finished run of table {table.paper or table.title}")
    markdown = _markdown(table, rows)
    with writing(stem.with_suffix(".md")) as file:
        file.write(markdown + "\n")
    write_json(
        stem.with_suffix(".json"), {"table": table.paper, "title": table.title, "rows": rows}
    )
    with writing(stem.with_suffix(".csv")) as file:
        flat = [
            {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in r.items()}
            for r in rows
        ]
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    return markdown


def finished(workdir: Path, run: str) -> dict[tuple[int, int], Path]:
    """Returns the folders of a run's finished ones by fold and seed."""
    found = {}
    for path in sorted(workdir.glob(f"seed*/fold*/{run}/results.json")):
        fold, seed = (int(path.parents[i].name.lstrip("foldse")) for i in (1, 2))
        found[fold, seed] = path.parent
    return found


def _lines(table: Table, row: Row, workdir: Path, block: int) -> Sequence[dict[str, Any]]:
    """Returns a row's numbers, for each number of shots."""
    baseline = row.against or table.baseline
    folders = finished(workdir, row.run)
    results = {key: read_results(p) for key, p in folders.items()}
    pairs = _pairs(workdir, row.run, baseline) if row.run != baseline else {}
    rows_of_paper = {(p.table, p.row): p for p in published_ablations()}
    published = rows_of_paper.get((table.paper, row.paper))
    lines = []
    for shot in sorted({r["shot"] for rows in results.values() for r in rows}):
        scores = {
            key: next(r for r in reversed(rows) if r["shot"] == shot)["miou"]
            for key, rows in results.items()
        }
        line = {"row": row.label, "run": row.run, "shot": shot} | _means(scores)
        line |= {"difference": None, "low": None, "high": None, "above": None, "pairs": None}
        if pairs:
            line |= _against(pairs, shot, block)
        of_paper = published if shot == 1 else None
        line["paper_folds"] = list(of_paper.folds) if of_paper else None
        line["paper_mean"] = of_paper.mean if of_paper else None
        lines.append(line)
    return lines


def _pairs(workdir: Path, run: str, other: str) -> dict[tuple[int, int], tuple[Path, Path]]:
    """Returns the folders of two runs with the same fold and seed.

    What learns nothing has one seed, and stands beside every seed of the other.
    """
    mine, others = finished(workdir, run), finished(workdir, other)

    def of(name, folders, fold, seed):
        return folders.get((fold, 0 if name.startswith(NO_LEARNING) else seed))

    found = {
        key: (of(run, mine, *key), of(other, others, *key)) for key in sorted({*mine, *others})
    }
    return {key: pair for key, pair in found.items() if None not in pair}


def _means(scores: dict[tuple[int, int], float]) -> dict[str, Any]:
    """Returns the means over seeds by fold, and the mean over folds with its spread over seeds.

    Seeds that lack a fold count in the folds they have, and not in the spread.
    """
    folds = sorted({fold for fold, _ in scores})
    seeds = sorted({seed for _, seed in scores})
    by_fold = {
        str(fold): statistics.mean(x for (f, _), x in scores.items() if f == fold) for fold in folds
    }
    whole = [s for s in seeds if all((f, s) in scores for f in folds)]
    of_seeds = [statistics.mean(scores[f, s] for f in folds) for s in whole]
    return {
        "folds": {fold: round(x, 2) for fold, x in by_fold.items()},
        "mean": round(statistics.mean(by_fold.values()), 2),
        "seeds": len(seeds),
        "spread": round(statistics.stdev(of_seeds), 2) if len(of_seeds) > 1 else None,
    }


def _against(
    pairs: dict[tuple[int, int], tuple[Path, Path]], shot: int, block: int
) -> dict[str, Any]:
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


def _markdown(table: Table, rows: Sequence[dict[str, Any]]) -> str:
    folds = sorted({fold for row in rows for fold in row["folds"]})
    heads = [f"{table.title}", "shot", *(f"fold {fold}" for fold in folds), "mean mIoU"]
    heads += ["difference [95 %]", "pairs above"]
    if table.paper:
        heads += ["paper, folds", "paper, mean"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.1f}"
        cells = [row["row"], str(row["shot"])]
        cells += [f"{row['folds'][f]:.1f}" if f in row["folds"] else "" for f in folds]
        cells.append(f"{row['mean']:.1f}{spread}")
        if row["difference"] is None:
            cells += ["", ""]
        else:
            cells.append(f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]")
            cells.append(f"{row['above']} of {row['pairs']}")
        if table.paper:
            cells.append(
                "" if not row["paper_folds"] else " ".join(f"{x:.1f}" for x in row["paper_folds"])
            )
            cells.append("" if row["paper_mean"] is None else f"{row['paper_mean']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    seeds = max(row["seeds"] for row in rows)
    note = (
        f"Novel classes, mIoU in percent; {seeds} seeds, ± their standard deviation. Differences "
        f"are to the run `{table.baseline}` of the same fold and seed"
    )
    note += ", or as the row says." if any(row.against for row in table.rows) else "."
    if table.paper:
        note += " The paper's rows: PASCAL-5i, ResNet-50, 1 shot."
    return "\n".join([*lines, "", note])
