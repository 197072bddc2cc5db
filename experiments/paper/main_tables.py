"""The paper's Tables I, II and III, with our results beside the published ones.

    python experiments/paper/main_tables.py --workdir=WORKDIR [--workdir=…] [--output=FOLDER]
    python experiments/paper/main_tables.py --workdir=WORKDIR [--baseline] [--output=FOLDER] \\
        --run --config=configs/pascal.py:records=RECORDS,seeds=0+1+2

A workdir is that of one run, or of several by fold, seed and variant: every results.json in it
counts. Runs of the same settings make up one row for each checkpoint: a cell is the mean over
seeds ± their standard deviation, "mean" that of the seeds which have every fold. With `--run`,
folds (all, unless the config names some) and seeds whose results are missing are run first, and
with `--baseline` also without the class-agnostic branch.

FOLDER gets the tables as main_tables.md, and our runs as main_tables.csv, a line for each run,
number of supports and checkpoint. Published rows are as printed; what is inconsistent in them is
marked. Results of other data sets or folds than the paper's have tables of their own.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.pascal import CLASS_NAMES as PASCAL_CLASSES
from apanet_jax.reports.paper import PublishedRow, paper_folds, published, published_beside
from apanet_jax.runtime.atomic_files import cannot_write, writing
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.paper.run_lines import APANET, BASELINE, RunLine, read_lines, write_csv

COCO_CLASSES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
CLASSES = {
    "pascal": PASCAL_CLASSES,
    "coco": tuple(name.replace("_", " ") for name in COCO_CLASSES.split()),
}
FOLDS = {dataset: paper_folds(dataset, names) for dataset, names in CLASSES.items()}
EPISODES = {"pascal": 5000, "coco": 20000}
"""Test episodes of a fold, by the protocol."""

METRICS = {"miou": "mIoU", "fb_iou": "FB-IoU"}
PAPER_TABLES = (("I", "pascal", "miou"), ("II", "coco", "miou"), ("II", "coco", "fb_iou")) + (
    ("III", "pascal", "fb_iou"),
)
BENCHMARKS = {"pascal": "PASCAL-5i", "coco": "COCO-20i"}
BACKBONES = ("vgg16", "resnet50", "resnet101")

MARKS = {
    "mean_differs": ("\\*", "printed so, but not the mean of the printed folds."),
    "label_differs": ("†", "printed beside the label ResNet-101; the row belongs to ResNet-50."),
    "episodes_differ": ("‡", "tested on another number of episodes than the protocol's."),
}

_SHOWN = ("dataset", "backbone", "variant", "num_clusters", "agnostic_weight")
"""Settings that a row shows anyway."""


class Runs(NamedTuple):
    """Runs that differ in fold and seed alone, and one of their checkpoints.

    Attributes:
      label: what distinguishes them in a table.
      dataset: as results.json names it.
      backbone: as results.json names it.
      checkpoint: "best", "last", "given" or "none".
      lines: by fold, number of supports and seed of the training.
    """

    label: str
    dataset: str
    backbone: str
    checkpoint: str
    lines: dict[tuple[int, int, int], RunLine]

    @property
    def compares(self) -> bool:
        """Whether the classes of the folds are the paper's (see `paper.published_beside`)."""
        if self.dataset not in FOLDS:
            return False
        folds = {fold: set(names) for fold, names in enumerate(FOLDS[self.dataset])}
        for (fold, _, _), line in self.lines.items():
            if not set(line.classes) <= folds.get(fold, set()):
                folds[fold] = set(line.classes)
        # Rows of which backbone does not matter: the folds decide.
        names = CLASSES[self.dataset]
        return bool(published_beside(self.dataset, BACKBONES[0], names, list(folds.values())))


class TableRow(NamedTuple):
    """A method at one number of supports, in percent.

    Attributes:
      method: its name; ours begin with "ours".
      backbone: as results.json names it.
      checkpoint: of ours; "as printed" of published ones.
      shot: number of supports.
      folds: of each fold; None where it is missing.
      mean: over the folds; None where one is missing.
      seeds: how many, and how many of them have every fold; "" of published rows.
      episodes: how many each of the runs was tested on.
      marks: names in `MARKS`.
    """

    method: str
    backbone: str
    checkpoint: str
    shot: int
    folds: tuple[str, ...]
    mean: str
    seeds: str = ""
    episodes: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table: its title, the numbers of its folds, and its rows."""

    title: str
    folds: tuple[int, ...]
    rows: list[TableRow]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    workdir = {"type": Path, "action": "append", "required": True}
    parser.add_argument("--workdir", **workdir, help="where results are; may be repeated")
    parser.add_argument("--output", type=Path, help="folder to write the tables to")
    parser.add_argument("--run", action="store_true", help="first run what has no results yet")
    parser.add_argument("--config", type=harness.read_config, help="settings of the runs of --run")
    parser.add_argument("--baseline", action="store_true", help="of --run: the baseline, too")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables, and writes them where they are wanted."""
    given = arguments().parse_args(argv)
    if given.run:
        if given.config is None or len(given.workdir) > 1:
            raise UserError("--run needs a --config, and one --workdir to keep its results in")
        given.config.sweep.folds = given.config.sweep.folds or ("all",)
        if given.baseline:
            if given.config.variants.to_dict():
                raise UserError("--baseline adds a variant, but the config has variants of its own")
            given.config.variants = {BASELINE: "num_clusters=0", APANET: ""}
        harness.run_missing(given.config, given.workdir[0])
    elif given.config is not None or given.baseline:
        raise UserError("--config and --baseline say what --run runs: pass --run, too")
    lines = read_lines(given.workdir)
    text = "\n\n".join(map(markdown, tables(runs_of(lines)))) + "\n"
    print(text)
    if given.output:
        with cannot_write(given.output):
            given.output.mkdir(parents=True, exist_ok=True)
        with writing(given.output / "main_tables.md") as file:
            file.write(text)
        write_csv(given.output / "main_tables.csv", lines)


def runs_of(lines: Iterable[RunLine]) -> list[Runs]:
    """Groups lines whose settings differ in fold and seed alone, by checkpoint.

    Raises:
      UserError: two are of the same run.
    """
    groups: dict[tuple, dict[tuple[int, int, int], RunLine]] = {}
    for line in lines:
        key = tuple(line.settings.values()), line.values["checkpoint"]
        place = tuple(line.values[name] for name in ("fold", "shot", "seed"))
        other = groups.setdefault(key, {}).setdefault(place, line)
        if other is not line:
            raise UserError(
                f"{other.folder} and {line.folder} hold the same run, fold {place[0]} with seed "
                f"{place[2]}: pass workdirs that have it once"
            )
    firsts = [next(iter(found.values())).settings for found in groups.values()]
    return [
        Runs(_label(own, firsts), own["dataset"], own["backbone"], checkpoint, found)
        for own, ((_, checkpoint), found) in zip(firsts, groups.items(), strict=True)
    ]


def _label(settings: dict[str, Any], all_settings: list[dict[str, Any]]) -> str:
    """Returns variant, n and lambda, and what else differs between runs on the same data."""
    label = settings["variant"]
    if settings["num_clusters"]:
        label += " (n = {num_clusters}, λ = {agnostic_weight:g})".format(**settings)
    same = [s for s in all_settings if all(s[k] == settings[k] for k in ("dataset", "backbone"))]
    for name, value in settings.items():
        if name not in _SHOWN and len({s[name] for s in same}) > 1:
            label += f", {name} {value}"
    return label


def tables(runs: Sequence[Runs]) -> list[Table]:
    """Returns the paper's tables with those runs that compare, then tables of the others."""
    found = []
    for number, dataset, metric in PAPER_TABLES:
        here = [r for r in runs if r.dataset == dataset and r.compares]
        rows = [
            _published_row(row)
            for row in published()
            if (row.table, row.dataset, row.metric) == (number, dataset, metric)
        ] + [row for each in here for row in _our_rows(each, metric, range(4))]
        title = f"Table {number}: {METRICS[metric]} on {BENCHMARKS[dataset]}, %"
        found.append(_table(title, range(4), rows))
    others = [r for r in runs if not r.compares]
    for dataset in dict.fromkeys(r.dataset for r in others):
        here = [r for r in others if r.dataset == dataset]
        folds = sorted({fold for r in here for fold, _, _ in r.lines})
        for metric, name in METRICS.items():
            title = f"{name} on {dataset}, %"
            if dataset in FOLDS:
                title += "; other folds than the paper's, which has no rows that compare"
            rows = [row for each in here for row in _our_rows(each, metric, folds)]
            found.append(_table(title, folds, rows))
    return found


def _table(title: str, folds: Sequence[int], rows: list[TableRow]) -> Table:
    """Returns a table, its rows by backbone: published ones, then ours."""
    order = {name: place for place, name in enumerate(BACKBONES)}
    rows.sort(key=lambda row: order.get(row.backbone.removesuffix("_bn"), len(order)))
    return Table(title, tuple(folds), rows)


def _published_row(row: PublishedRow) -> TableRow:
    return TableRow(
        row.method,
        row.backbone,
        "as printed",
        row.shot,
        tuple(_score([x]) for x in row.folds) or (_score([]),) * 4,
        _score([row.mean]),
        marks=tuple(name for name in ("mean_differs", "label_differs") if getattr(row, name)),
    )


def _our_rows(runs: Runs, metric: str, folds: Sequence[int]) -> list[TableRow]:
    """Returns a row for each number of supports."""
    rows = []
    for shot in sorted({shot for _, shot, _ in runs.lines}):
        lines = {(f, seed): x.values for (f, k, seed), x in runs.lines.items() if k == shot}
        seeds = sorted({seed for _, seed in lines})
        whole = [seed for seed in seeds if all((fold, seed) in lines for fold in folds)]
        of_folds = [[lines[f, s][metric] for s in seeds if (f, s) in lines] for f in folds]
        means = [statistics.mean(lines[f, seed][metric] for f in folds) for seed in whole]
        episodes = tuple(sorted({values["episodes"] for values in lines.values()}))
        differ = runs.compares and episodes != (EPISODES[runs.dataset],)
        rows.append(
            TableRow(
                f"ours: {runs.label}",
                runs.backbone,
                runs.checkpoint,
                shot,
                tuple(map(_score, of_folds)),
                _score(means),
                str(len(seeds))
                if whole == seeds
                else f"{len(seeds)}, {len(whole)} with every fold",
                episodes,
                ("episodes_differ",) if differ else (),
            )
        )
    return rows


def _score(values: Sequence[float]) -> str:
    """Returns the mean of the seeds ± their standard deviation."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def markdown(table: Table) -> str:
    """Returns a table with a line for each method and checkpoint, and notes on its marks below."""
    shots = sorted({row.shot for row in table.rows})
    heads = ["method", "backbone", "checkpoint"]
    for shot in shots:
        heads += [f"{shot}-shot fold {fold}" for fold in table.folds] + ["mean"]
    methods: dict[tuple, dict[int, TableRow]] = {}
    for row in table.rows:
        methods.setdefault((row.method, row.backbone, row.checkpoint), {})[row.shot] = row
    lines = []
    for (method, backbone, checkpoint), by_shot in methods.items():
        rows = list(by_shot.values())
        cells = [_marked(method, rows, "label_differs"), backbone, checkpoint]
        for shot in shots:
            if row := by_shot.get(shot):
                cells += [*row.folds, _marked(row.mean, [row], "mean_differs")]
            else:
                cells += [""] * (len(table.folds) + 1)
        cells.append("; ".join(dict.fromkeys(row.seeds for row in rows)))
        episodes = ", ".join(map(str, sorted({n for row in rows for n in row.episodes})))
        lines.append([*cells, _marked(episodes, rows, "episodes_differ")])
    text = harness.table([*heads, "seeds", "episodes"], lines)
    return f"## {table.title}\n\n{text}" + "".join(f"\n{note}\n" for note in _notes(table)).rstrip()


def _marked(text: str, rows: Sequence[TableRow], mark: str) -> str:
    return text + MARKS[mark][0] * any(mark in row.marks for row in rows)


def _notes(table: Table) -> list[str]:
    used = {mark for row in table.rows for mark in row.marks}
    notes = [f"{mark} {note}" for name, (mark, note) in MARKS.items() if name in used]
    if any("±" in row.mean for row in table.rows):
        notes.append("Ours are means over seeds, ± their standard deviation.")
    if any(row.checkpoint == "best" for row in table.rows):
        notes.append(
            'Of ours, "best" was chosen on episodes of the test classes, as is the habit of the '
            'field, "last" was not chosen.'
        )
    return notes


if __name__ == "__main__":
    main()
