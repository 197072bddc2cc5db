"""The page of several runs: folds, seeds and variants."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from apanet_jax.reports import blocks
from apanet_jax.reports.line_chart import Line, Points, line_chart, smoothed
from apanet_jax.reports.run_record import RunRecord
from apanet_jax.reports.tables import FoldTable, fold_notes, fold_tables

_OF_SWEEP = re.compile(r"(seed|fold)\d+")
"""Folders of a sweep; what is named otherwise is a variant."""


def overview_page(
    name: str,
    runs: Mapping[str, RunRecord],
    links: Mapping[str, str],
    pictures: Sequence[Path] = (),
) -> str:
    """Returns the page of several runs.

    Args:
      name: of their workdir.
      runs: by their folder below it.
      links: the address of each run's page, by its folder; those that have none yet are left out.
      pictures: files of test episodes that belong to all of them.
    """
    done = sum(run.state[0] == "done" for run in runs.values())
    live = any(run.live for run in runs.values())
    state = "live" if live else "done" if done == len(runs) else "stopped"
    progress = f'<progress max="{len(runs)}" value="{done}"></progress>' * (state != "done")
    variants = {folder: _variant(folder) for folder in runs}
    scored = [run for run in runs.values() if run.results]
    data = dict.fromkeys(run.dataset for run in scored or runs.values())
    body = [
        f'<header><h1>{escape(name)}</h1><p class="soft">{len(runs)} runs on '
        f"{escape(', '.join(data))}</p>"
        f'<p class="state {state}">{done} of {len(runs)} runs are finished</p>{progress}</header>',
        blocks.section("Folds and seeds", _folds(runs, variants, name)),
        blocks.section("Training", blocks.chart_row(_charts(runs, variants))),
        blocks.section("Runs", _run_list(runs, links)),
        blocks.section("Test episodes", blocks.picture_list(pictures)),
    ]
    return blocks.page(name, body, live=live)


def _variant(folder: str) -> str:
    last = folder.rpartition("/")[2]
    return "" if _OF_SWEEP.fullmatch(last) else last


def _folds(runs: Mapping[str, RunRecord], variants: Mapping[str, str], name: str) -> str:
    """Returns the tables of folds and seeds; "" where there is one of each, or nothing scored."""
    scored = {folder: run for folder, run in runs.items() if run.results}
    if len({(run.settings.fold, run.settings.seed) for run in scored.values()}) < 2:
        return ""
    by_variant = defaultdict(list)
    for folder, run in scored.items():
        by_variant[variants[folder] or name] += run.results
    published = next(iter(scored.values())).published
    tables = fold_tables(by_variant, published)
    return _fold_tables(tables, fold_notes(by_variant, published))


def _charts(runs: Mapping[str, RunRecord], variants: Mapping[str, str]) -> Iterable[str]:
    """Yields a chart of the losses and one of the validations, with a line for each variant."""
    names = variants if len(set(variants.values())) > 1 else {folder: folder for folder in runs}
    members = defaultdict(list)
    for folder, run in runs.items():
        members[names[folder]].append(run)
    mean = ", mean over folds and seeds" * (len(members) < len(runs))
    for metric, title in (("loss", "Loss"), ("validation_miou", "Validation mIoU, %")):
        lines, smooth = [], ""
        for colour, (name, of_it) in enumerate(members.items()):
            points = mean_curve([run.curve(metric) for run in of_it])
            if metric == "loss" and (window := len(points) // blocks.SMOOTHING) > 1:
                points, smooth = smoothed(points, window), ", smoothed"
            lines.append(Line(name, points, colour, "line" if metric == "loss" else "dots"))
        yield line_chart(title + smooth + mean, lines, x_label="step")


def mean_curve(curves: Iterable[Points]) -> Points:
    """Returns the mean of curves, at the steps that each of them has that has any."""
    begun = [dict(points) for points in curves if points]
    steps = [step for step in begun[0] if all(step in curve for curve in begun)] if begun else ()
    return [(step, statistics.mean(curve[step] for curve in begun)) for step in steps]


def _fold_tables(tables: Sequence[FoldTable], notes: Sequence[str]) -> str:
    parts = []
    for table in tables:
        heads = blocks.heads(table.heads, words=2)
        lines = [
            f"<tr{kind}>{''.join(_fold_cell(i, cell) for i, cell in enumerate(cells))}</tr>"
            for kind, rows in (("", table.rows), (' class="paper"', table.published))
            for cells in rows
        ]
        parts.append(f'<table class="scores">{heads}<tbody>{"".join(lines)}</tbody></table>')
    note = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    return f'<div class="wide">{"".join(parts)}</div>{note}' if parts else ""


def _fold_cell(column: int, text: str) -> str:
    if column == 0:
        return f"<th>{escape(text)}</th>"
    return f'<td class="word">{escape(text)}</td>' if column == 1 else f"<td>{escape(text)}</td>"


def _run_list(runs: Mapping[str, RunRecord], links: Mapping[str, str]) -> str:
    shots = sorted({shot for run in runs.values() for shot in run.shots()})
    heads = blocks.heads(["run", "state", *blocks.score_heads(shots)], words=2)
    note = '<p class="note">Novel classes, in percent, of the last checkpoints.</p>' * bool(shots)
    lines = []
    for folder, run in runs.items():
        rows = run.of_last()
        cells = "".join(
            f"<td>{blocks.percent(rows.get(k, {}).get(metric))}</td>"
            for k in shots
            for metric in ("miou", "fb_iou")
        )
        name = escape(folder)
        if folder in links:
            name = f'<a href="{escape(links[folder])}">{name}</a>'
        lines.append(f'<tr><th>{name}</th><td class="word">{escape(_state(run))}</td>{cells}</tr>')
    return (
        f'<div class="wide"><table class="scores">{heads}<tbody>{"".join(lines)}</tbody></table>'
        f"</div>{note}"
    )


def _state(run: RunRecord) -> str:
    # Its own page tells the step; this one is not written as often.
    return "Not finished" if run.live else run.state[1]
