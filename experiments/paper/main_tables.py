"""The paper's Tables I, II and III, with our results beside the published ones.

    python experiments/paper/main_tables.py --workdir=WORKDIR [--workdir=…] [--output=FOLDER]
    python experiments/paper/main_tables.py --workdir=WORKDIR [--baseline] [--output=FOLDER] \\
        --run --config=configs/pascal.py:records=RECORDS,seeds=0+1+2

A workdir is that of one run, or of several by fold, seed and variant: every results.json in it
counts. Runs of the same settings make up one row for each checkpoint: a cell is the mean over
seeds ± their standard deviation, "mean" that of the seeds which have every fold. With `--run`,
folds (all, unless the config names some) and seeds whose results are missing are run first, and
with `--baseline` also without the class-agnostic branch.

FOLDER gets main_tables.md, .csv and .json. Published rows are as printed; what is inconsistent in
them is marked. Results of other data sets or folds than the paper's have tables of their own.
"""

import csv
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config import settings
from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.data.sources.pascal import CLASS_NAMES as PASCAL_CLASSES
from apanet_jax.evaluation.results import read_results
from apanet_jax.reports.paper import PublishedRow, paper_folds, published, published_beside
from apanet_jax.runtime.atomic_files import cannot_write, write_json, writing
from apanet_jax.runtime.errors import UserError

_CONFIG = config_flag("Settings of the runs of --run.")
_WORKDIRS = flags.DEFINE_multi_string("workdir", [], "Where results are; may be repeated.")
_RUN = flags.DEFINE_bool("run", False, "Run what has no results in the workdir yet.")
_BASELINE = flags.DEFINE_bool("baseline", False, "Of --run: the baseline, too.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the tables to, too.")

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

Row = dict[str, Any]
Table = dict[str, Any]


class Runs(NamedTuple):
    """Runs that differ in fold and seed alone, and one of their checkpoints.

    Attributes:
      label: what distinguishes them in a table.
      dataset: as results.json names it.
      backbone: as results.json names it.
      checkpoint: "best", "last" or "given".
      scores: objects of results.json, by fold, shots and seed of the training.
    """

    label: str
    dataset: str
    backbone: str
    checkpoint: str
    scores: dict[tuple[int, int, int], Row]

    @property
    def compares(self) -> bool:
        """Whether the classes of the folds are the paper's (see `paper.published_beside`)."""
        if self.dataset not in FOLDS:
            return False
        folds = {fold: set(names) for fold, names in enumerate(FOLDS[self.dataset])}
        for (fold, _, _), row in self.scores.items():
            scored = set(row["iou_per_class"])
            if not scored <= folds.get(fold, set()):
                folds[fold] = scored
        # Rows of which backbone does not matter: the folds decide.
        names = CLASSES[self.dataset]
        return bool(published_beside(self.dataset, BACKBONES[0], names, list(folds.values())))


def main() -> None:
    """Prints the tables, and writes them where they are wanted."""
    workdirs = [Path(text) for text in _WORKDIRS.value]
    if not workdirs:
        raise UserError("no --workdir: name one or several with results.json files in them")
    if _RUN.value:
        if len(workdirs) > 1:
            raise UserError("--run keeps its results in one --workdir, but there are several")
        run_missing(_planned(config_of(_CONFIG)[0]), workdirs[0])
    elif _CONFIG.value is not None or _BASELINE.value:
        raise UserError("--config and --baseline say what --run runs: pass --run, too")
    found = tables(read_runs(workdirs))
    text = "\n\n".join(map(markdown, found)) + "\n"
    print(text)
    if _OUTPUT.value:
        _write(Path(_OUTPUT.value), found, text)


def run_missing(config: ConfigDict, workdir: Path) -> None:
    """Runs the folds, seeds and variants of `config` that have no results in `workdir`.

    Raises:
      UserError: for settings, data or weights that cannot be used.
    """
    from apanet_jax.runs.sweep import is_finished, parts, run_all
    from apanet_jax.runtime.compilation import keep_compiled

    if config.data.generate:
        raise UserError("--run needs records of a data set, not data.generate: pass records=…")
    missing = [part for part in parts(config) if not is_finished(part, workdir)]
    keep_compiled(config.compilation_cache)
    if missing and config.sweep.side_by_side:
        # One program trains them all; those that are trained already are only tested again.
        run_all(config, workdir, "train_and_evaluate")
        return
    for part in missing:
        run_all(part.config, workdir / part.folder, "train_and_evaluate")


def _planned(config: ConfigDict) -> ConfigDict:
    """Returns the config for every fold, unless it names some, and with the baseline if wanted."""
    with config.unlocked():
        config.sweep.folds = config.sweep.folds or ("all",)
        if _BASELINE.value:
            if config.variants.to_dict():
                raise UserError("--baseline adds a variant, but the config has variants of its own")
            config.variants = ConfigDict({"baseline": "num_clusters=0", "apanet": ""})
    return config


def read_runs(workdirs: Iterable[Path]) -> list[Runs]:
    """Returns what the results.json files in the workdirs hold, one `Runs` for each table row.

    Raises:
      UserError: there are none, one cannot be read, or two are of the same run.
    """
    files: dict[Path, Path] = {}
    for workdir in workdirs:
        inside = sorted(workdir.rglob("results.json"))
        if not inside:
            raise UserError(f"--workdir={workdir} holds no results.json: evaluate there first")
        for path in inside:
            files.setdefault(path.resolve(), workdir.resolve())
    groups: dict[tuple, dict[tuple[int, int, int], tuple[Row, Path]]] = {}
    for path, workdir in files.items():
        variant = _variant(path.parent.relative_to(workdir))
        for row in _read(path):
            named = ("dataset", "backbone", "num_clusters", "agnostic_weight", "checkpoint")
            key = (variant, *(row[name] for name in named), _settings(path.parent))
            place = row["fold"], row["shot"], row["training_seed"]
            other = groups.setdefault(key, {}).setdefault(place, (row, path))[1]
            if other != path:
                raise UserError(
                    f"{other} and {path} hold the same run, fold {place[0]} with seed {place[2]}: "
                    "pass workdirs that have it once"
                )
    return _labelled(groups)


def _labelled(groups: dict[tuple, dict]) -> list[Runs]:
    """Names the groups; those of equal names, whose other settings differ, after their folders."""
    labels = {}
    for key in groups:
        variant, _, _, clusters, weight, _, _ = key
        setting = f"n = {clusters}, λ = {weight:g}" if clusters else "n = 0"
        labels[key] = f"{variant} ({setting})" if variant else setting
    times = Counter((key[1], key[2], key[5], label) for key, label in labels.items())
    runs = []
    for key, found in groups.items():
        label = labels[key]
        if times[key[1], key[2], key[5], label] > 1:
            label += f", {_folder(next(iter(found.values()))[1])}"
        scores = {place: row for place, (row, _) in found.items()}
        runs.append(Runs(label, key[1], key[2], key[5], scores))
    return runs


def _variant(folder: Path) -> str:
    return "/".join(p for p in folder.parts if not re.fullmatch(r"(seed|fold)\d+", p))


def _folder(results: Path) -> str:
    """Returns the name of the folder that a run's folders of seeds and folds are in."""
    return next(p for p in reversed(results.parts[:-1]) if not re.fullmatch(r"(seed|fold)\d+", p))


def _settings(folder: Path) -> str:
    """Returns a hash of a run's settings but for fold and seed; "" where it left none."""
    path = folder / "config.json"
    if not path.exists():
        return ""
    try:
        config = settings.from_json(path.read_text())
        config.fold = config.seed = 0
        return settings.fingerprint(config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no config of a run: {error}") from error


_FIELDS = {
    "dataset": str,
    "backbone": str,
    "checkpoint": str,
    "num_clusters": int,
    "agnostic_weight": int | float,
    "fold": int,
    "shot": int,
    "training_seed": int,
    "episodes": int,
    "miou": int | float,
    "fb_iou": int | float,
    "iou_per_class": dict,
}


def _read(path: Path) -> list[Row]:
    rows = read_results(path.parent)
    for row in rows:
        for name, kind in _FIELDS.items():
            if not isinstance(row.get(name), kind):
                raise UserError(f"{path}: {name!r} of a result is {row.get(name)!r}")
    return rows


def tables(runs: Sequence[Runs]) -> list[Table]:
    """Returns the paper's tables with those runs that compare, then a table of each of the others.

    A table has a title, the number of each fold, and rows: a method at a number of shots, with
    scores in percent.
    """
    found = []
    for number, dataset, metric in PAPER_TABLES:
        here = [r for r in runs if r.dataset == dataset and r.compares]
        rows = [
            _published_row(row)
            for row in published()
            if (row.table, row.dataset, row.metric) == (number, dataset, metric)
        ] + [row for each in here for row in _our_rows(each, metric, range(4))]
        title = f"Table {number}: {METRICS[metric]} on {BENCHMARKS[dataset]}, %"
        found.append(_table(title, number, dataset, metric, range(4), rows))
    others = [r for r in runs if not r.compares]
    for dataset in dict.fromkeys(r.dataset for r in others):
        here = [r for r in others if r.dataset == dataset]
        folds = sorted({fold for r in here for fold, _, _ in r.scores})
        for metric, name in METRICS.items():
            title = f"{name} on {dataset}, %"
            if dataset in FOLDS:
                title += "; other folds than the paper's, which has no rows that compare"
            rows = [row for each in here for row in _our_rows(each, metric, folds)]
            found.append(_table(title, None, dataset, metric, folds, rows))
    return found


def _table(title, number, dataset, metric, folds, rows) -> Table:
    """Returns a table, its rows by backbone: published ones, then ours."""
    order = {name: place for place, name in enumerate(BACKBONES)}
    rows.sort(key=lambda row: order.get(row["backbone"].removesuffix("_bn"), len(order)))
    return {
        "title": title,
        "table": number,
        "dataset": dataset,
        "metric": metric,
        "folds": list(folds),
        "rows": rows,
    }


def _published_row(row: PublishedRow) -> Row:
    return {
        "method": row.method,
        "backbone": row.backbone,
        "source": "paper",
        "checkpoint": None,
        "shot": row.shot,
        "folds": list(row.folds) or [None] * 4,
        "folds_sd": [None] * 4,
        "mean": row.mean,
        "mean_sd": None,
        "seeds": None,
        "seeds_with_every_fold": None,
        "episodes": [],
        "marks": [name for name in ("mean_differs", "label_differs") if getattr(row, name)],
    }


def _our_rows(runs: Runs, metric: str, folds: Sequence[int]) -> list[Row]:
    """Returns a row for each number of shots."""
    rows = []
    for shot in sorted({shot for _, shot, _ in runs.scores}):
        scores = {(f, seed): r for (f, k, seed), r in runs.scores.items() if k == shot}
        seeds = sorted({seed for _, seed in scores})
        whole = [seed for seed in seeds if all((fold, seed) in scores for fold in folds)]
        of_folds = [
            [scores[fold, seed][metric] for seed in seeds if (fold, seed) in scores]
            for fold in folds
        ]
        means = [statistics.mean(scores[f, seed][metric] for f in folds) for seed in whole]
        episodes = sorted({row["episodes"] for row in scores.values()})
        expected = EPISODES[runs.dataset] if runs.compares else None
        rows.append(
            {
                "method": f"ours: {runs.label}",
                "backbone": runs.backbone,
                "source": "ours",
                "checkpoint": runs.checkpoint,
                "shot": shot,
                "folds": [_mean(values) for values in of_folds],
                "folds_sd": [_spread(values) for values in of_folds],
                "mean": _mean(means),
                "mean_sd": _spread(means),
                "seeds": len(seeds),
                "seeds_with_every_fold": len(whole),
                "episodes": episodes,
                "marks": ["episodes_differ"] if expected and episodes != [expected] else [],
            }
        )
    return rows


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def markdown(table: Table) -> str:
    """Returns a table with a line for each method and checkpoint, and notes on its marks below."""
    shots = sorted({row["shot"] for row in table["rows"]})
    heads = ["method", "backbone", "checkpoint"]
    for shot in shots:
        heads += [f"{shot}-shot fold {fold}" for fold in table["folds"]] + ["mean"]
    heads += ["seeds", "episodes"]
    lines = [f"## {table['title']}", "", _line(heads), "|---" * len(heads) + "|"]
    methods: dict[tuple, dict[int, Row]] = {}
    for row in table["rows"]:
        key = row["source"], row["method"], row["backbone"], row["checkpoint"]
        methods.setdefault(key, {})[row["shot"]] = row
    for (_, method, backbone, checkpoint), by_shot in methods.items():
        marks = {mark for row in by_shot.values() for mark in row["marks"]}
        name = method + MARKS["label_differs"][0] * ("label_differs" in marks)
        cells = [name, backbone, checkpoint or "as printed"]
        for shot in shots:
            cells += _score_cells(by_shot.get(shot), len(table["folds"]))
        rows = list(by_shot.values())
        cells += ["; ".join(dict.fromkeys(map(_seeds, rows)))]
        episodes = sorted({count for row in rows for count in row["episodes"]})
        mark = MARKS["episodes_differ"][0] * ("episodes_differ" in marks)
        cells += [", ".join(map(str, episodes)) + mark]
        lines.append(_line(cells))
    return "\n".join(lines + _notes(table))


def _score_cells(row: Row | None, folds: int) -> list[str]:
    if row is None:
        return [""] * (folds + 1)
    cells = list(map(_score, row["folds"], row["folds_sd"]))
    mark = MARKS["mean_differs"][0] * ("mean_differs" in row["marks"])
    return [*cells, _score(row["mean"], row["mean_sd"]) + mark]


def _score(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def _seeds(row: Row) -> str:
    if row["seeds"] is None:
        return ""
    whole = row["seeds_with_every_fold"]
    return str(whole) if whole == row["seeds"] else f"{row['seeds']}, {whole} with every fold"


def _notes(table: Table) -> list[str]:
    used = {mark for row in table["rows"] for mark in row["marks"]}
    notes = [f"{mark} {note}" for name, (mark, note) in MARKS.items() if name in used]
    if any(row["mean_sd"] is not None for row in table["rows"]):
        notes.append("Ours are means over seeds, ± their standard deviation.")
    if any(row["checkpoint"] == "best" for row in table["rows"]):
        notes.append(
            'Of ours, "best" was chosen on episodes of the test classes, as is the habit of the '
            'field, "last" was not chosen.'
        )
    return [line for note in notes for line in ("", note)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write(folder: Path, found: Sequence[Table], text: str) -> None:
    """Writes main_tables.md, .csv and .json into `folder`."""
    with cannot_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / "main_tables.md") as file:
        file.write(text)
    write_json(folder / "main_tables.json", {"tables": found})
    folds = sorted({fold for table in found for fold in table["folds"]})
    with writing(folder / "main_tables.csv") as file:
        plain = ("backbone", "method", "source", "checkpoint", "shot")
        ours = ("mean", "mean_sd", "seeds")
        names = ("table", "dataset", "metric", *plain, *(f"fold{fold}" for fold in folds), *ours)
        lines = csv.DictWriter(file, (*names, "episodes", "marks"), lineterminator="\n")
        lines.writeheader()
        for table in found:
            for row in table["rows"]:
                values = zip(table["folds"], row["folds"], strict=True)
                lines.writerow(
                    {name: table[name] for name in ("table", "dataset", "metric")}
                    | {name: row[name] for name in plain + ours}
                    | {f"fold{fold}": value for fold, value in values}
                    | {name: "+".join(map(str, row[name])) for name in ("episodes", "marks")}
                )


if __name__ == "__main__":
    run_command(main)
