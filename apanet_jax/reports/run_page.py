"""The page of one run."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from apanet_jax.config.definitions import Settings
from apanet_jax.config.settings import values
from apanet_jax.reports import blocks, head_comparison
from apanet_jax.reports.line_chart import Line, line_chart, smoothed
from apanet_jax.reports.run_record import RunRecord, duration
from apanet_jax.reports.tables import unseen_notes


def run_page(run: RunRecord) -> str:
    """Returns the page of one run."""
    state, sentence = run.state
    progress = ""
    if state == "live" and run.steps:
        progress = f'<progress max="{run.steps}" value="{run.step}"></progress>'
    settings = run.settings
    subtitle = f"{run.name} · seed {settings.seed} · {settings.backbone.name} · "
    subtitle += f"{settings.image_size}×{settings.image_size}"
    body = [
        f'<header><h1>{escape(run.title)}</h1><p class="soft">{escape(subtitle)}</p>'
        f'<p class="state {state}">{escape(sentence)}</p>{progress}</header>',
        _tiles(run),
        blocks.section("Training", blocks.chart_row(_run_charts(run))),
        blocks.section("Results", _results(run)),
        blocks.section("IoU of each novel class", _classes(run)),
        blocks.section("Beside the heads of the package", _heads(run)),
        blocks.section("About this run", _facts(run)),
        _settings(settings),
        blocks.section("Test episodes", blocks.picture_list(run.pictures)),
    ]
    return blocks.page(run.title, body, live=run.live)


def _tiles(run: RunRecord) -> str:
    tiles = [
        (
            blocks.percent(row["miou"]),
            f"mIoU at {shot} shot{'s' * (shot > 1)}",
            f"FB-IoU {blocks.percent(row['fb_iou'])}",
        )
        for shot, row in sorted(run.of_last().items())
    ]
    losses, validated = run.curve("loss"), run.curve("validation_miou")
    if losses and not tiles:
        step, loss = losses[-1]
        tiles.append((blocks.data(loss, f"{loss:.3f}"), "loss", f"at step {step:,}"))
    if validated and not tiles[1:]:
        step, best = max(validated, key=lambda point: point[1])
        tiles.append((blocks.percent(best), "best validation mIoU", f"at step {step:,}"))
    seconds = run.metrics[-1].get("seconds") if run.metrics else None
    if seconds is not None:
        tiles.append(
            (blocks.data(seconds, duration(seconds)), "of training", "validation included")
        )
    if pace := run.episodes_per_second:
        tiles.append((blocks.data(pace, f"{pace:.3g}"), "training episodes a second", "median"))
    cells = (
        f'<div class="tile"><b>{number}</b><span>{what}</span><span>{more}</span></div>'
        for number, what, more in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>' if tiles else ""


def _run_charts(run: RunRecord) -> Iterable[str]:
    kinds = [("loss", "total"), ("loss_specific", "class-specific")]
    kinds.append(("loss_agnostic", "class-agnostic"))
    lines = []
    for colour, (metric, name) in enumerate(kinds):
        points = run.curve(metric)
        window = len(points) // blocks.SMOOTHING
        # The baseline's second loss is 0 and its total the first.
        if not any(value for _, value in run.curve("loss_agnostic")) and colour:
            break
        if window > 1:
            lines.insert(0, Line("", points, colour, "faint"))
            points = smoothed(points, window)
        lines.append(Line(name, points, colour))
    smooth = any(line.style == "faint" for line in lines)
    title = "Loss" + ", smoothed (pale: as logged)" * smooth
    yield line_chart(title, lines, x_label="step", x_end=run.steps)
    scores = [("validation_miou", "mIoU"), ("validation_fb_iou", "FB-IoU")]
    lines = [
        Line(name, run.curve(metric), colour, "dots")
        for colour, (metric, name) in enumerate(scores)
    ]
    yield line_chart("Validation, %", lines, x_label="step", x_end=run.steps)
    pace = [Line("", run.curve("episodes_per_second"), 6)]
    yield line_chart("Episodes a second", pace, x_label="step", x_end=run.steps)


def _results(run: RunRecord) -> str:
    if not run.results:
        return ""
    shots = run.shots()
    heads = blocks.heads(["checkpoint", *blocks.score_heads(shots)])
    lines = []
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in run.results):
        of_it = {row["shot"]: row for row in run.results if row["checkpoint"] == checkpoint}
        step = next(iter(of_it.values())).get("step")
        small = f"<small>step {step:,}</small>" if step is not None else ""
        cells = "".join(
            f"<td>{blocks.percent(of_it.get(k, {}).get(metric))}</td>"
            for k in shots
            for metric in ("miou", "fb_iou")
        )
        lines.append(f"<tr><th>{escape(checkpoint)}{small}</th>{cells}</tr>")
    for method in dict.fromkeys(row.method for row in run.published):
        cells = "".join(
            f"<td>{_published(run, method, metric, k)}</td>"
            for k in shots
            for metric in ("miou", "fb_iou")
        )
        lines.append(
            f'<tr class="paper"><th>{escape(method)}<small>the paper</small></th>{cells}</tr>'
        )
    notes = [_episodes(run.results[0])]
    notes += unseen_notes(run.results)
    if any(row["checkpoint"] == "best" for row in run.results):
        notes.append("The best checkpoint was chosen on episodes of these classes; that flatters.")
    if any(not row.folds for row in run.published):
        notes.append("The paper tells FB-IoU as the mean over the folds only.")
    return (
        f'<div class="wide"><table class="scores">{heads}'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f'<p class="note">{escape(" ".join(notes))}</p>'
    )


def _published(run: RunRecord, method: str, metric: str, shot: int) -> str:
    for row in run.published:
        if (row.method, row.metric, row.shot) == (method, metric, shot):
            return blocks.percent(row.folds[run.settings.fold] if row.folds else row.mean)
    return ""


def _episodes(row: Mapping[str, Any]) -> str:
    chosen = f"of seed {row['seed']}" if row.get("seed") is not None else "of a given list"
    trained = f", training list {row['training_list']}" if "training_list" in row else ""
    episodes = f"{row.get('episodes', 0):,} test episodes {chosen}"
    return f"Novel classes, in percent, {episodes}{trained}."


def _classes(run: RunRecord) -> str:
    rows = [row for row in run.results if row.get("iou_per_class")]
    if not rows:
        return ""
    heads = blocks.heads(["class", *(f"{row['checkpoint']}, {row['shot']}-shot" for row in rows)])
    lines = []
    for name in dict.fromkeys(name for row in rows for name in row["iou_per_class"]):
        cells = "".join(_share(row["iou_per_class"].get(name)) for row in rows)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table class="scores">{heads}'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heads(run: RunRecord) -> str:
    if not run.heads:
        return ""
    classes = dict.fromkeys(row["class"] for row in run.heads)
    lines = (
        f"<tr><th>{escape(head)}</th>{''.join(map(_share, (*means, mean)))}</tr>"
        for head, means, mean in head_comparison.table(run.heads)
    )
    notes = (
        f"{note[0].upper()}{note[1:]}."
        for note in (head_comparison.title(run.heads), head_comparison.advice(run.heads))
    )
    return (
        f'<div class="wide"><table class="scores">{blocks.heads(["head", *classes, "mean"])}'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f'<p class="note">{escape(" ".join(notes))}</p>'
    )


def _share(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    return f'<td class="share">{blocks.percent(value)}<i style="--share:{value:.1f}%"></i></td>'


def _facts(run: RunRecord) -> str:
    settings, model = run.settings, run.settings.model
    row = run.results[0] if run.results else {}
    environment = {**run.environment, **{k: row[k] for k in ("versions", "device") if k in row}}
    branch = f"{model.num_clusters} clusters ({model.regions}), lambda {model.agnostic_weight:g}"
    versions = environment.get("versions", {})
    facts = {
        "novel classes": ", ".join(row.get("iou_per_class", ())),
        "class-agnostic branch": branch if model.num_clusters else "none: this is the baseline",
        "prior masks from": ", ".join(model.priors) or "none",
        "training": f"{f'{run.steps:,} steps of ' if run.steps else ''}"
        f"{settings.training.batch_size} episodes, {settings.shot}-shot, "
        f"learning rate {settings.training.learning_rate * settings.training.rate_factor:g}",
        "device": environment.get("device", ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "fingerprint of the data": row.get("data_fingerprint", ""),
        "of the weights": row.get("weights_fingerprint", ""),
        "of the settings": row.get("config_fingerprint", ""),
    }
    lines = (
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value
    )
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def _settings(settings: Settings) -> str:
    fields = list(values(settings))
    differ = [field for field in fields if field[1] != field[2]]
    same = [field for field in fields if field[1] == field[2]]
    lines = [
        f'<tr class="set"><th>{escape(name)}</th><td>{escape(repr(value))}</td>'
        f"<td>{escape(repr(default))}</td></tr>"
        for name, value, default in differ
    ]
    lines += [
        f"<tr><th>{escape(name)}</th><td>{escape(repr(value))}</td><td></td></tr>"
        for name, value, _ in same
    ]
    return (
        f"<section><details><summary>Settings, {len(differ)} of {len(fields)} other than in "
        'configs/common.py</summary><div class="wide"><table class="settings"><thead><tr>'
        "<th>setting</th><th>here</th><th>there</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></details></section>"
    )
