"""Tables of results: runs side by side, folds and seeds in the shape of the paper, classes."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from apanet_jax.config.definitions import Settings
from apanet_jax.data.records.reading import Records
from apanet_jax.reports.paper import PublishedRow, published_beside

_SCORES = (("miou", "mIoU"), ("fb_iou", "FB-IoU"))


def results_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a table of runs: a row per run and checkpoint, mIoU and FB-IoU at each shot.

    Args:
      results: by the run's name, the objects of its `results.json`.
    """
    shots = sorted({r["shot"] for rows in results.values() for r in rows})
    width = max(len(name) for name in results) + 9
    header = "".join(f"{f'{k}-shot mIoU':>14}{'FB-IoU':>9}" for k in shots)
    lines = [f"{'':{width}}" + header]
    for name, rows in results.items():
        for checkpoint in dict.fromkeys(r["checkpoint"] for r in rows):
            cells = {r["shot"]: r for r in rows if r["checkpoint"] == checkpoint}
            line = f"{name + ' (' + checkpoint + ')':{width}}"
            for shot in shots:
                row = cells.get(shot)
                line += f"{row['miou']:14.1f}{row['fb_iou']:9.1f}" if row else " " * 23
            lines.append(line)
    return "\n".join(lines)


def published_beside_run(settings: Settings, records: Records) -> tuple[PublishedRow, ...]:
    """Returns the paper's rows that runs of `settings` on `records` compare with; or none."""
    return published_beside(
        settings.dataset or records.name,
        settings.backbone.name,
        records.class_names,
        records.folds,
    )


class FoldTable(NamedTuple):
    """A table in the shape of the paper's: a metric by shot and fold.

    Attributes:
      heads: of its columns; the first two are the metric and "checkpoint".
      rows: the cells of each variant and checkpoint, in percent with one digit, "" where there is
        none.
      published: the same of the paper's rows; "*" behind a mean says that its folds' is another.
    """

    heads: list[str]
    rows: list[list[str]]
    published: list[list[str]]


def class_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a table of the novel classes' IoU in percent: a row per class, a column per shot.

    A class is novel in one fold; where there are several seeds, a cell is their mean.

    Args:
      results: by the run's or the variant's name, the objects of `results.json`.
    """
    values = defaultdict(list)
    for run, rows in results.items():
        for row in rows:
            for name, iou in row["iou_per_class"].items():
                values[name, run, row["checkpoint"], row["shot"]].append(iou)
    blocks = []
    for run, checkpoint in dict.fromkeys(key[1:3] for key in values):
        shots = sorted({key[3] for key in values if key[1:3] == (run, checkpoint)})
        lines = [(f"{run} ({checkpoint}), IoU", *(f"{shot}-shot" for shot in shots))]
        for name in dict.fromkeys(key[0] for key in values):
            cells = [values.get((name, run, checkpoint, shot)) for shot in shots]
            if any(cells):
                lines.append((name, *(f"{statistics.mean(c):.1f}" if c else "" for c in cells)))
        blocks.append(_aligned(lines))
    return "\n\n".join(blocks)


def fold_lists(
    results: Mapping[str, Sequence[Mapping[str, Any]]], published: Sequence[PublishedRow] = ()
) -> str:
    """Returns what `fold_tables` does in plain text, for terminals: a table per metric and shot."""
    rows = [{"variant": variant} | row for variant, rows in results.items() for row in rows]
    folds, blocks = sorted({row["fold"] for row in rows}), []
    for (metric, title), shot in itertools.product(_SCORES, sorted({r["shot"] for r in rows})):
        lines = [(f"{title}, {shot}-shot", *(f"fold {fold}" for fold in folds), "mean")]
        for variant, checkpoint in dict.fromkeys((r["variant"], r["checkpoint"]) for r in rows):
            key = (variant, checkpoint, shot)
            found = [r for r in rows if (r["variant"], r["checkpoint"], r["shot"]) == key]
            if found:
                lines.append((f"{variant} ({checkpoint})", *_fold_cells(found, metric, folds)))
        for row in published:
            if (row.metric, row.shot) == (metric, shot):
                lines.append((f"{row.method} (paper)", *_published_cells(row, folds)))
        blocks.append(_aligned(lines))
    return "\n\n".join([*blocks, *fold_notes(results, published)])


def fold_tables(
    results: Mapping[str, Sequence[Mapping[str, Any]]], published: Sequence[PublishedRow] = ()
) -> list[FoldTable]:
    """Returns the tables of mIoU and of FB-IoU of several folds or seeds.

    A row stands for a variant and checkpoint. Where there are several seeds, a cell is their mean,
    and the means over folds carry the standard deviation over seeds.

    Args:
      results: by variant, the objects of `results.json` of all its folds and seeds.
      published: rows of the paper to stand below ours.
    """
    rows = [{"variant": variant} | row for variant, rows in results.items() for row in rows]
    folds = sorted({row["fold"] for row in rows})
    shots = sorted({row["shot"] for row in rows})
    tables = []
    for metric, title in _SCORES:
        table = FoldTable([title, "checkpoint"], [], [])
        for shot in shots:
            table.heads.extend([f"{shot}-shot fold {fold}" for fold in folds] + ["mean"])
        for variant, checkpoint in dict.fromkeys((r["variant"], r["checkpoint"]) for r in rows):
            cells = [variant, checkpoint]
            for shot in shots:
                key = (variant, checkpoint, shot)
                found = [r for r in rows if (r["variant"], r["checkpoint"], r["shot"]) == key]
                cells += _fold_cells(found, metric, folds)
            table.rows.append(cells)
        of_metric = [row for row in published if row.metric == metric]
        for method in dict.fromkeys(row.method for row in of_metric):
            cells = [method, "paper"]
            for shot in shots:
                row = next((r for r in of_metric if (r.method, r.shot) == (method, shot)), None)
                cells += _published_cells(row, folds)
            table.published.append(cells)
        tables.append(table)
    return tables


def fold_notes(
    results: Mapping[str, Sequence[Mapping[str, Any]]], published: Sequence[PublishedRow] = ()
) -> list[str]:
    """Returns what is to be said below `fold_tables`, a sentence each."""
    notes = unseen_notes(row for rows in results.values() for row in rows)
    seeds = len({row["training_seed"] for rows in results.values() for row in rows})
    if seeds > 1:
        notes.append(f"Means over {seeds} seeds, ± their standard deviation.")
    if any(row.mean_differs for row in published):
        notes.append("A star marks a mean that is printed so and is not the mean of its folds.")
    return notes


def unseen_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence for each fold whose test episodes show only some of its novel classes.

    Args:
      rows: objects of `results.json`.
    """
    found = {}
    for row in rows:
        if missing := row.get("classes_unseen"):
            found[row["fold"]] = (len(row["iou_per_class"]), missing)
    return [
        f"Fold {fold}: {seen} of {seen + len(missing)} novel classes seen; no test episode shows "
        f"{', '.join(missing)}, and the means are without."
        for fold, (seen, missing) in sorted(found.items())
    ]


def fold_markdown(
    results: Mapping[str, Sequence[Mapping[str, Any]]], published: Sequence[PublishedRow] = ()
) -> str:
    """Returns `fold_tables` and `fold_notes` as Markdown."""
    parts = []
    for heads, rows, of_paper in fold_tables(results, published):
        escaped = [[cell.replace("*", "\\*") for cell in cells] for cells in of_paper]
        rows = rows + [[f"*{name}*", f"*{kind}*", *cells] for name, kind, *cells in escaped]
        lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
        parts.append("\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]]))
    return "\n\n".join(parts + fold_notes(results, published))


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns cells in columns: the first to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        name.ljust(first) + "".join(f"  {c:>{w}}" for c, w in zip(cells, others, strict=True))
        for name, *cells in lines
    )


def _fold_cells(
    rows: Sequence[Mapping[str, Any]], metric: str, folds: Sequence[int]
) -> Iterable[str]:
    """Returns a variant's cells of one shot: each fold's mean over seeds, and the mean of all."""
    if not rows:
        return [""] * (len(folds) + 1)
    cells = []
    for fold in folds:
        values = [row[metric] for row in rows if row["fold"] == fold]
        cells.append(f"{statistics.mean(values):.1f}" if values else "")
    seeds = dict.fromkeys(row["training_seed"] for row in rows)
    means = [
        statistics.mean(row[metric] for row in rows if row["training_seed"] == seed)
        for seed in seeds
    ]
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return [*cells, f"{statistics.mean(means):.1f}{spread}"]


def _published_cells(row: PublishedRow | None, folds: Sequence[int]) -> Iterable[str]:
    if row is None:
        return [""] * (len(folds) + 1)
    cells = [f"{row.folds[fold]:.1f}" if row.folds else "" for fold in folds]
    return [*cells, f"{row.mean:.1f}" + "*" * row.mean_differs]
