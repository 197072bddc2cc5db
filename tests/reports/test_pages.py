"""The reports: what they say is what the files say, and they need nothing else."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apanet_jax import report
from apanet_jax.config.settings import typed
from apanet_jax.reports.line_chart import Line, line_chart, smoothed, thinned, ticks
from apanet_jax.reports.overview_page import mean_curve, overview_page
from apanet_jax.reports.paper import paper_folds, published_beside
from apanet_jax.reports.run_page import run_page
from apanet_jax.reports.run_record import RunRecord, duration, read_run
from apanet_jax.runs import live_report
from apanet_jax.runs.live_report import LiveOverview, LiveReport
from apanet_jax.runtime.devices import data_mesh
from configs import folder, quickstart

CLASSES = ("<script>alert(1)</script>", 'a "quoted" & class', "bird")


class Page(HTMLParser):
    """A page taken apart: its elements, its tables' cells, its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.words, self._open = [], [], [], False
        self.feed(text)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True
        elif tag == "data" and self._open:
            self.tables[-1][-1][-1] = float(dict(attributes)["value"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data):
        self.words.append(data)
        if self._open and isinstance(self.tables[-1][-1][-1], str):
            self.tables[-1][-1][-1] += data

    def table(self, head):
        return next(rows for rows in self.tables if rows[0][0] == head)

    def attributes(self, tag, name):
        return [found[name] for kind, found in self.elements if kind == tag and name in found]

    @property
    def refreshes(self):
        return "refresh" in self.attributes("meta", "http-equiv")


def result(checkpoint, shot, step, miou, **more):
    return {
        "dataset": "mine & yours",
        "fold": 1,
        "shot": shot,
        "checkpoint": checkpoint,
        "step": step,
        "episodes": 500,
        "seed": 321,
        "training_seed": 0,
        "miou": miou,
        "fb_iou": miou + 20.0625,
        "iou_per_class": {name: miou + i for i, name in enumerate(CLASSES)},
        "versions": {"apanet_jax": "0.9", "jax": "1.2.3"},
        "device": "4 x Abacus",
        "data_fingerprint": "f00d",
    } | more


RESULTS = [
    result("best", 1, 40, 31.1234),
    result("best", 5, 40, 36.25),
    result("last", 1, 60, 30.5678),
    result("last", 5, 60, 35.4321),
]


def metrics(last=60, seconds=True):
    """Lines every 10 steps, 2 s each, and a validation every 20 that takes no time."""
    for step in range(10, last + 1, 10):
        timed = {"seconds": step / 5} if seconds else {}
        total = 1 / step
        yield {
            "step": step,
            "loss": total,
            "loss_specific": 1.5 * total,
            "loss_agnostic": 0.5 * total,
            "learning_rate": 0.01,
            "episodes_per_second": float(step),
        } | timed
        if step % 20 == 0:
            yield {
                "step": step,
                "validation_miou": 20 + step / 7,
                "validation_fb_iou": 50.0,
            } | timed


def workdir_of(place, config, lines, results=()):
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config.to_dict(), default=list))
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results:
        (place / "results.json").write_text(json.dumps(results))
    return place


@pytest.fixture
def finished(tmp_path):
    config = folder.get_config("steps=60,fold=1,records=/none/<b>")
    place = workdir_of(tmp_path / "run", config, metrics(), RESULTS)
    (place / "pictures").mkdir()
    for name in ("episode_0000", "episode_0001"):
        Image.fromarray(np.full((9, 30, 3), 80, np.uint8)).save(place / "pictures" / f"{name}.png")
    return place


def run_of(config, steps=60):
    return SimpleNamespace(settings=typed(config), steps=steps, mesh=data_mesh(1), records=None)


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        report.main(list(map(str, arguments)))
    return ended.value.code


def test_the_page_says_what_the_files_say(finished):
    assert command(f"--workdir={finished}") == 0
    page = Page((finished / "report.html").read_text())
    heads, best, last = page.table("checkpoint")
    assert heads[1:] == ["1-shot mIoU", "FB-IoU", "5-shot mIoU", "FB-IoU"]
    for cells, rows in ((best, RESULTS[:2]), (last, RESULTS[2:])):
        assert cells[0] == f"{rows[0]['checkpoint']}step {rows[0]['step']}"
        assert cells[1:] == [row[name] for row in rows for name in ("miou", "fb_iou")]
    heads, *classes = page.table("class")
    assert heads[1:] == ["best, 1-shot", "best, 5-shot", "last, 1-shot", "last, 5-shot"]
    assert [cells[0] for cells in classes] == list(CLASSES)
    for name, *values in classes:
        assert values == [row["iou_per_class"][name] for row in RESULTS]
    assert "Finished after 60 steps" in page.text and not page.refreshes
    assert "500 test episodes of seed 321" in page.text
    assert "4 x Abacus" in page.text and "jax 1.2.3" in page.text
    # The tiles: time and the median of 10, 20, … 60 episodes a second.
    assert {"12.0", "35.0"} <= set(page.attributes("data", "value"))


def test_the_page_is_one_file_and_what_people_name_is_text(finished):
    report.main.__wrapped__([f"--workdir={finished}"])
    text = (finished / "report.html").read_text()
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    for name in ("src", "href", "srcset", "action", "xlink:href"):
        found = [attributes[name] for _, attributes in page.elements if name in attributes]
        assert all(address.startswith("data:image/") for address in found)
    assert not re.search(r"url\(|@import|\son\w+=", text)
    assert len(page.attributes("img", "src")) == 2
    assert "<script>alert(1)</script>" in page.text and "mine & yours" in page.text
    assert "<script" not in text and "/none/<b>" in page.text


def test_settings_that_differ_come_first(finished):
    report.main.__wrapped__([f"--workdir={finished}"])
    page = Page((finished / "report.html").read_text())
    _, *rows = page.table("setting")
    given = {name: (here, there) for name, here, there in rows}
    assert given["training.steps"] == ("60", "0") and given["fold"] == ("1", "0")
    assert given["training.momentum"] == ("0.9", "")
    differ = [there != "" for _, _, there in rows]
    assert differ == sorted(differ, reverse=True)
    assert "details" in {tag for tag, _ in page.elements}


def curve_values(text, index):
    """The points of the figure's polyline `index`, read off its axes."""
    axes = []
    # The numbers of the y axis stand 4 lower than their lines, which go through their middles.
    for axis, lower in (("x", 0), ("y", 4)):
        found = re.findall(rf'<text class="{axis}" ([^>]*)>([^<]*)<', text)
        places = [float(re.search(rf'\b{axis}="([\d.]+)"', a)[1]) - lower for a, _ in found]
        marks = [(place, float(value)) for place, (_, value) in zip(places, found, strict=True)]
        axes.append(np.polyfit(*zip(*marks, strict=True), 1))
    points = re.findall(r'<polyline [^>]*points="([^"]*)"', text)[index].split()
    return [
        tuple(np.polyval(axis, float(v)) for axis, v in zip(axes, p.split(","), strict=True))
        for p in points
    ]


def test_curves_show_the_metrics(finished):
    text = run_page(read_run(finished))
    loss, validation, speed = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    lines = list(metrics())
    for figure, index, name in (
        (loss, 0, "loss"),
        (loss, 1, "loss_specific"),
        (loss, 2, "loss_agnostic"),
        (validation, 0, "validation_miou"),
        (validation, 1, "validation_fb_iou"),
        (speed, 0, "episodes_per_second"),
    ):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        size = max(value for _, value in expected)
        shown = curve_values(figure, index)
        np.testing.assert_allclose([x for x, _ in shown], [x for x, _ in expected], atol=0.3)
        np.testing.assert_allclose(
            [y for _, y in shown], [y for _, y in expected], atol=0.01 * size
        )
    assert [name in loss for name in ("total", "class-specific", "class-agnostic")] == [True] * 3


def test_a_training_tells_how_far_it_is(tmp_path):
    config = folder.get_config("steps=60")
    place = workdir_of(tmp_path / "run", config, metrics(20))
    page = Page(run_page(read_run(place, live=True)))
    # 40 steps to go at 2 s for 10.
    assert "Training, step 20 of 60, about 8 s left" in page.text and page.refreshes
    assert ("progress", {"max": "60", "value": "20"}) in page.elements
    stopped = Page(run_page(read_run(place)))
    assert "Stopped behind step 20 of 60" in stopped.text and not stopped.refreshes
    trained = workdir_of(tmp_path / "trained", config, metrics())
    assert "test episodes are being scored" in Page(run_page(read_run(trained, live=True))).text
    assert "Trained for 60 steps, not scored" in Page(run_page(read_run(trained))).text
    new = Page(run_page(read_run(workdir_of(tmp_path / "new", config, ()), live=True)))
    assert "Step 0 of 60: nothing is logged yet" in new.text and new.refreshes


def test_a_run_from_before_the_times_were_kept(tmp_path):
    config = folder.get_config("num_clusters=0")
    lines = [line | {"loss_agnostic": 0.0} for line in metrics(20, seconds=False) if "loss" in line]
    with_epochs = workdir_of(tmp_path / "run", config, lines)
    config.training.steps = 0
    workdir_of(with_epochs, config, lines)
    page = Page(run_page(read_run(with_epochs)))
    assert "Stopped behind step 20 " in page.text + " " and "of training" not in page.text
    assert "Baseline on" in page.text and "class-agnostic loss" not in page.text
    assert "class-specific" not in page.text


def test_the_paper_s_rows_stand_below_ours_where_it_has_them():
    names = [f"class {i}" for i in range(20)]
    beside = published_beside("pascal", "resnet50", names, paper_folds("pascal", names))
    run = RunRecord("run", folder.get_config("fold=2"), (), RESULTS[2:], published=beside)
    rows = {cells[0]: cells[1:] for cells in Page(run_page(run)).table("checkpoint")}
    for method in ("PFENet", "APANet"):
        found = {(row.metric, row.shot): row for row in beside if row.method == method}
        expected = [found["miou", 1].folds[2], found["fb_iou", 1].mean]
        expected += [found["miou", 5].folds[2], found["fb_iou", 5].mean]
        assert rows[f"{method}the paper"] == expected


def test_several_runs_have_one_page_that_leads_to_theirs(tmp_path):
    for seed in (0, 1):
        for name in ("a b", "apanet"):
            config = quickstart.get_config(f"steps=60,fold=1,seed={seed}")
            rows = [result("last", 1, 60, 30.0 + seed, training_seed=seed)]
            rows = rows if (seed, name) != (1, "a b") else []
            place = tmp_path / "sweep" / f"seed{seed}" / name
            workdir_of(place, config, metrics(60 if rows else 30), rows)
    assert command(f"--workdir={tmp_path / 'sweep'}") == 0
    page = Page((tmp_path / "sweep" / "report.html").read_text())
    links = page.attributes("a", "href")
    assert links == [f"seed{s}/{name}/report.html" for s in (0, 1) for name in ("a%20b", "apanet")]
    for link in links:
        assert (tmp_path / "sweep" / link.replace("%20", " ")).exists()
    rows = {cells[0]: cells[1:] for cells in page.table("run")}
    assert rows["seed1/apanet"] == ["Finished after 60 steps", 31.0, 51.0625]
    assert rows["seed1/a b"] == ["Stopped behind step 30 of 60", "", ""]
    assert "3 of 4 runs are finished" in page.text and not page.refreshes
    # Of apanet there are both seeds: 30 and 31.
    table = {cells[0]: cells[1:] for cells in page.table("mIoU")}
    assert table["apanet"] == ["last", "30.5", "30.5 ± 0.7"]
    live = {
        name: read_run(tmp_path / "sweep" / name, live=name == "seed1/a b")
        for name in rows
        if name != "run"
    }
    assert Page(overview_page("sweep", live, {})).refreshes


def test_a_live_report_is_written_again_but_not_too_often(tmp_path, monkeypatch):
    config = folder.get_config("steps=60")
    workdir = workdir_of(tmp_path / "run", config, ())
    with LiveReport(run_of(config), workdir) as live:
        assert "nothing is logged yet" in (workdir / "report.html").read_text()
        workdir_of(workdir, config, metrics(20))
        live.update()
        assert "nothing is logged yet" in (workdir / "report.html").read_text()
        monkeypatch.setattr(live_report.time, "perf_counter", lambda: live._due + 1)
        live.update()
        assert "step 20 of 60" in (workdir / "report.html").read_text()
    assert "Stopped behind step 20 of 60" in (workdir / "report.html").read_text()


def test_what_hinders_a_live_report_is_told_once(tmp_path, capsys):
    config = folder.get_config("steps=60")
    workdir = workdir_of(tmp_path / "run", config, metrics(20), [{"shot": "one"}])
    with LiveReport(run_of(config), workdir) as live:
        live.update()
    told = capsys.readouterr().err
    assert told.startswith(f"warning: no report is written to {workdir}: ")
    assert told.count("\n") == 1 and "results.json holds no results" in told
    (workdir / "results.json").unlink()
    (workdir / "report.html").mkdir()
    with LiveOverview(tmp_path, [(run_of(config), workdir)]) as live:
        live.done(workdir)
    assert "report.html cannot be written" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()


def test_what_the_command_cannot_do_is_one_line(tmp_path, finished, capsys):
    assert command() == 2
    assert "--workdir" in capsys.readouterr().err
    assert command(f"--workdir={tmp_path / 'none'}") == 2
    assert "holds no run: expected config.json" in capsys.readouterr().err
    (finished / "results.json").write_text("{}")
    assert command(f"--workdir={finished}") == 2
    assert capsys.readouterr().err.count("\n") == 1


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-5, 1e6), st.integers(2, 8), st.booleans())
def test_ticks_are_round_evenly_apart_and_cover(low, span, count, inside):
    high = low + span
    found = ticks(low, high, count, inside=inside)
    apart = np.diff(found)
    assert len(found) <= count + 2
    if len(apart):
        np.testing.assert_allclose(apart, apart[0], rtol=1e-3)
        mantissa = apart[0] / 10 ** np.floor(np.log10(apart[0]) + 1e-6)
        assert np.isclose(mantissa, [1, 2, 5], rtol=1e-3).any()
    room = 1e-6 * max(abs(low), abs(high), span)
    if inside:
        assert all(low - room <= tick <= high + room for tick in found)
    else:
        assert found[0] <= low + room and high - room <= found[-1]


@pytest.mark.parametrize("value", [0.0, 1e-300, 3e-9, -2.5, 1e15])
def test_a_flat_line_has_an_axis_too(value):
    assert len(ticks(value, value, 5)) > 1
    assert line_chart("t", [Line("a", [(1, value), (2, value)])], x_label="step")


def test_a_chart_leaves_out_what_is_no_number():
    assert line_chart("t", [Line("a", [(1, float("nan"))]), Line("b", [])], x_label="step") == ""
    chart = line_chart("<t>", [Line("<a>", [(1, 2.0), (2, float("inf")), (3, 2.0)])], x_label="&")
    assert "nan" not in chart and "inf" not in chart
    assert "&lt;t&gt;" in chart and "&lt;a&gt;" in chart and ">&amp;<" in chart
    assert len(curve_values(chart, 0)) == 2


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(1, 9))
def test_smoothing_is_a_mean_around_each_point(values, window):
    shown = smoothed(list(enumerate(values)), window)
    for i, (x, y) in enumerate(shown):
        around = values[max(0, i - window // 2) : i + (window - 1) // 2 + 1]
        assert x == i and y == pytest.approx(np.mean(around), abs=1e-9)


def test_curves_of_several_runs_are_averaged_where_all_have_a_value():
    curves = [[(10, 1.0), (20, 2.0)], [], [(10, 3.0), (20, 6.0), (30, 9.0)]]
    assert mean_curve(curves) == [(10, 2.0), (20, 4.0)]
    assert not mean_curve([[], []])


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(2, 50))
def test_thinning_keeps_the_last_point_and_the_spacing(count, most):
    kept = thinned([(i, i) for i in range(count)], most)
    assert len(kept) <= most and kept[-1] == (count - 1, count - 1)
    assert len({b[0] - a[0] for a, b in zip(kept, kept[1:], strict=False)}) <= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (59.7, "1 min"),
        (3599, "1 h"),
        (12_300, "3 h 25 min"),
        (86_400 * 2, "2 d"),
        (86_400 * 2 + 3600 * 5, "2 d 5 h"),
    ],
)
def test_durations_as_people_say_them(seconds, text):
    assert duration(seconds) == text
