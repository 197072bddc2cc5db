"""The paper's figures, drawn anew: 4, the pipeline; 6, episodes; 7, background regions.

    python experiments/paper/figures.py --figure=4 --output=figure4.png
    python experiments/paper/figures.py --figure=6 --baseline=DIR --apanet=DIR --output=figure6.png
    python experiments/paper/figures.py --figure=7 --apanet=DIR --output=figure7.png

DIR is the workdir of one trained run (a sweep's are its seed0/fold0/apanet and the like). Beside
Figures 6 and 7 lies a JSON file of the same name with the rule that chose the episodes or pictures
and what it chose; both are printed too.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.episodes import Episode
from apanet_jax.data.loader import load_evaluation_episode
from apanet_jax.models.network import Batch
from apanet_jax.models.prototypes import grid_regions
from apanet_jax.reports import overlays
from apanet_jax.runs.episode_images import at_label_size, predict
from apanet_jax.runs.run import Run, make_run
from apanet_jax.runs.scoring import TrainedHead, trained_heads
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser, UserError, main_guard
from configs import saved
from experiments.paper.pipeline_figure import draw_pipeline

QUANTILES = (10, 30, 50, 70, 90)
CLUSTERS = 3
PYRAMID_SIDE = 2
_TEXT = 13
_COLOURS = 256

Drawn = tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]


class Trained(NamedTuple):
    """A run and what it learned."""

    run: Run
    head: TrainedHead


class Choice(NamedTuple):
    """An episode of Figure 6, and why it is shown."""

    episode: int
    why: str


def open_trained(workdir: Path, options: str) -> Trained:
    """Opens a trained run: its best head on validation, or the last.

    Args:
      workdir: of the run.
      options: to set in its config, such as "records=RECORDS".

    Raises:
      UserError: there is no run, or it cannot be opened.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no trained run: expected config.json and checkpoints/")
    run = make_run(saved.get_config(f"{workdir / 'config.json'},{options}"))
    return Trained(run, trained_heads(run, workdir)[0])


def choose_episodes(
    queries: Int[np.ndarray, " episodes"],
    baseline: Float[np.ndarray, " episodes"],
    apanet: Float[np.ndarray, " episodes"],
    wrong: Int[np.ndarray, " episodes"],
) -> list[Choice]:
    """Chooses by `rule`: quantiles of the difference, APANet's worst, and its largest loss.

    Args:
      queries: the episodes' query pictures.
      baseline: its IoU in each.
      apanet: its IoU in each.
      wrong: APANet's wrong pixels in each.

    Raises:
      UserError: there are fewer query pictures than columns.
    """
    columns = len(QUANTILES) + 2
    if len(np.unique(queries)) < columns:
        raise UserError(
            f"the test episodes have {len(np.unique(queries))} query pictures, "
            f"expected at least {columns}: take more with --episodes"
        )
    count = len(queries)
    order = np.argsort(apanet - baseline, kind="stable")
    wanted = []
    for quantile in QUANTILES:
        place = int(np.floor(quantile / 100 * (count - 1) + 0.5))
        nearest = np.argsort(np.abs(np.arange(count) - place), kind="stable")
        wanted.append((f"{quantile} %", order[nearest]))
    wanted.append(("APANet's worst", np.lexsort((-wrong, apanet))))
    wanted.append(("largest loss", order))
    chosen, shown = [], set()
    for why, candidates in wanted:
        episode = next(int(e) for e in candidates if queries[e] not in shown)
        shown.add(queries[episode])
        chosen.append(Choice(episode, why))
    return chosen


def rule(run: Run, shot: int, count: int) -> str:
    """Returns, in words, how `choose_episodes` chooses."""
    quantiles = ", ".join(map(str, QUANTILES))
    return (
        f"All {count} {shot}-shot test episodes of fold {run.config.fold}, sorted by the IoU of "
        "APANet less that of the baseline, the worst for APANet first (of equals, the earlier). "
        f"Shown are those at {quantiles} % of the way; then the one with APANet's lowest IoU (of "
        "equals, the one with the most wrong pixels); then the one with its largest loss against "
        "the baseline. No query picture is shown twice: in place of such an episode stands the "
        "nearest in the order."
    )


def episodes_figure(
    baseline: Trained, apanet: Trained, shot: int | None, episodes: int | None, side: int
) -> Drawn:
    """Draws Figure 6: supports, query with the truth, what the baseline and APANet find.

    Args:
      baseline: trained without the class-agnostic branch.
      apanet: trained with it, to be tested on the same episodes.
      shot: supports; None: the first that the runs test with.
      episodes: how many to choose from; None: as many as the runs test with.
      side: of each picture, pixels.

    Raises:
      UserError: the two have other test episodes, or too few.
    """
    run = apanet.run
    shot, count = shot or run.test_shots[0], episodes or run.test_count
    tested = _test_episodes(run, shot, count)
    if (
        run.records.fingerprint != baseline.run.records.fingerprint
        or _test_episodes(baseline.run, shot, count) != tested
    ):
        raise UserError(
            "the two runs have other test episodes: give runs of the same records, fold and "
            "settings under data. and evaluation."
        )
    iou, wrong = {}, {}
    for name, trained in (("baseline", baseline), ("apanet", apanet)):
        counts, _ = trained.run.count_episodes(trained.head.parameters, shot, count)
        iou[name] = 100 * counts.intersection[:, 1] / np.maximum(counts.union[:, 1], 1)
        wrong[name] = counts.union[:, 1] - counts.intersection[:, 1]
    queries = np.array([episode.query for episode in tested])
    choices = choose_episodes(queries, iou["baseline"], iou["apanet"], wrong["apanet"])
    chosen = tuple(tested[choice.episode] for choice in choices)

    split, names = run.records.split("val"), run.records.class_names
    rows = [[] for _ in range(shot + 3)]
    found = {"baseline": _predictions(baseline, chosen), "apanet": _predictions(apanet, chosen)}
    told = []
    for column, (choice, episode) in enumerate(zip(choices, chosen, strict=True)):
        for row, support in enumerate(episode.supports):
            picture = split[support]
            mask = picture["label"] == episode.class_id
            shown = overlays.overlay(picture["image"], mask, overlays.GIVEN)
            rows[row].append((choice.why if row == 0 else "", shown))
        query = split[episode.query]
        image, truth = query["image"], query["label"] == episode.class_id
        name = names[episode.class_id - 1]
        rows[shot].append((name, overlays.overlay(image, truth, overlays.TRUTH)))
        for row, who in enumerate(("baseline", "apanet"), shot + 1):
            mask = found[who][column][: truth.shape[0], : truth.shape[1]]
            shown = overlays.overlay(image, mask, overlays.PREDICTION)
            rows[row].append((_caption(iou, who, choice.episode), shown))
        told.append(
            {
                "why": choice.why,
                "episode": choice.episode,
                "class": name,
                "query": query["name"],
                "supports": [split.names[support] for support in episode.supports],
                **{who: round(float(iou[who][choice.episode]), 1) for who in iou},
            }
        )
    supports = ["support"] if shot == 1 else [f"support {k}" for k in range(1, shot + 1)]
    picture = overlays.sheet(
        rows, side, labels=[*supports, "query, truth", "baseline", "APANet"], text=_TEXT
    )
    better = float(np.mean(iou["apanet"] > iou["baseline"]))
    worse = float(np.mean(iou["apanet"] < iou["baseline"]))
    return picture, {
        "rule": rule(run, shot, count),
        **_described(run),
        "better_in": round(100 * better, 1),
        "worse_in": round(100 * worse, 1),
        "episodes": told,
    }


def regions_figure(apanet: Trained, columns: int, side: int) -> Drawn:
    """Draws Figure 7: training pictures, their pyramid regions, and their clusters (Eq. 4, 5).

    Args:
      apanet: the run whose training pictures and clustered features they are.
      columns: how many pictures.
      side: of each picture, pixels.

    Raises:
      UserError: there are fewer training pictures than columns.
    """
    run, base = apanet.run, apanet.run.base
    count = len(base.queries)
    if count < columns:
        raise UserError(f"--columns={columns}, but there are {count} training pictures")
    split = run.records.split("train")
    chosen = []
    for place in ((2 * np.arange(columns) + 1) * count) // (2 * columns):
        query, classes = base.queries[place], base.classes[place]
        class_id = int(classes[np.argmax(split.areas[query, classes])])
        chosen.append(Episode(int(query), class_id, (int(query),)))
    batch = _training_pictures(run, chosen)
    clusters = training_clusters(apanet, batch)
    pyramid = np.broadcast_to(grid_regions(*clusters.shape[1:], PYRAMID_SIDE), clusters.shape)
    regions = [at_label_size(maps, batch) for maps in (pyramid, clusters)]

    rows = [[], [], []]
    told = []
    for column, episode in enumerate(chosen):
        picture = split[episode.query]
        image, foreground = picture["image"], picture["label"] == episode.class_id
        height, width = foreground.shape
        name = run.records.class_names[episode.class_id - 1]
        rows[0].append((name, overlays.covered(image, foreground)))
        for row, maps in zip(rows[1:], regions, strict=True):
            background = np.where(foreground, -1, maps[column][:height, :width])
            shown = overlays.covered(overlays.cluster_map(image, background), foreground)
            row.append(("", shown))
        told.append({"picture": picture["name"], "class": name})
    labels = ["picture", f"{PYRAMID_SIDE} x {PYRAMID_SIDE} pyramid", f"k-means, k = {CLUSTERS}"]
    return overlays.sheet(rows, side, labels=labels, text=_TEXT), {
        "rule": f"Of the {count} training pictures of fold {run.config.fold}, in the records' "
        f"order, the middles of {columns} equal stretches; in each the base class that covers most "
        "of it is the foreground, under yellow.",
        **_described(run),
        "clustered": f"{run.config.model.cluster_features} features of {run.config.backbone.name}",
        "pictures": told,
    }


def training_clusters(apanet: Trained, batch: Batch) -> Int[jax.Array, "batch height width"]:
    """Returns the queries' clusters, by the head as it is trained but with `CLUSTERS` clusters."""
    run = apanet.run
    head = run.network.head.clone(num_clusters=CLUSTERS)
    network = dataclasses.replace(run.network, head=head)

    @jax.jit
    def clusters(parameters, backbone_parameters, arrays, key):
        return network(parameters, backbone_parameters, arrays, key=key).clusters

    key = jax.random.key(run.config.seed)
    return clusters(apanet.head.parameters, run.backbone_parameters, batch, key)


def _caption(iou: dict[str, np.ndarray], who: str, episode: int) -> str:
    own = iou[who][episode]
    difference = f" ({own - iou['baseline'][episode]:+.1f})" if who == "apanet" else ""
    return f"IoU {own:.1f}{difference}"


def _test_episodes(run: Run, shot: int, count: int) -> list[Episode]:
    return list(map(run.draw_test(shot), range(count)))


def _predictions(trained: Trained, episodes: tuple[Episode, ...]) -> list[np.ndarray]:
    """Returns the predicted mask of each episode, the picture top left."""
    run = dataclasses.replace(trained.run, listed=episodes)
    masks = []
    with run.evaluation_batches(run.test_shots[0], len(episodes)) as batches:
        for batch in batches:
            found = predict(run, run.network, trained.head.parameters, batch)
            masks += list(found[batch["valid"]])
    return masks


def _training_pictures(run: Run, episodes: Sequence[Episode]) -> Batch:
    """Returns training pictures, each its own support, whole and unturned as in testing."""
    split = run.records.split("train")
    label_side = int(split.sizes.max())
    loaded = [
        load_evaluation_episode(split, episodes.__getitem__, run.config.image_size, label_side, i)
        for i in range(len(episodes))
    ]
    return {name: np.stack([arrays[name] for arrays in loaded]) for name in loaded[0]}


def _described(run: Run) -> dict[str, Any]:
    config = run.config
    return {
        "dataset": config.dataset or run.records.name,
        "fold": config.fold,
        "backbone": config.backbone.name,
        "training_steps": run.steps,
        "training_seed": config.seed,
    }


def write_figure(output: Path, drawn: Drawn) -> None:
    """Writes the picture, and beside it what `drawn` tells of it, which is also printed."""
    picture, told = drawn
    palette = Image.fromarray(picture).quantize(_COLOURS, dither=Image.Dither.NONE)
    palette.save(output, optimize=True)
    write_json(output.with_suffix(".json"), told)
    print(told["rule"])
    for row in told.get("episodes", told.get("pictures")):
        print("  " + ", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"written to {output} and {output.with_suffix('.json')}")


def _positive(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise UserError(f"expected a whole number from {least} on, not {text!r}")
        return int(text)

    return number


@main_guard
def main() -> None:
    """Draws the figure that is asked for."""
    parser = Parser(
        prog="python experiments/paper/figures.py",
        description="The paper's Figures 4, 6 and 7 from trained runs.",
    )
    parser.add_argument("--figure", type=int, choices=(4, 6, 7), required=True)
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--baseline", type=Path, help="workdir of the baseline")
    parser.add_argument("--apanet", type=Path, help="workdir of APANet")
    parser.add_argument("--options", default="", help="for their configs, as records=RECORDS")
    parser.add_argument("--shot", type=_positive(1), help="Figure 6: supports")
    parser.add_argument("--episodes", type=_positive(1), help="Figure 6: to choose from")
    parser.add_argument("--columns", type=_positive(1), default=6, help="Figure 7: pictures")
    parser.add_argument("--side", type=_positive(32), default=136, help="pixels of a picture")
    given = parser.parse_args()
    if given.output.suffix != ".png":
        raise UserError(f"--output={given.output}: expected a name that ends in .png")
    if not given.output.parent.is_dir():
        raise UserError(f"--output={given.output}: there is no folder {given.output.parent}")
    for name in {4: (), 6: ("baseline", "apanet"), 7: ("apanet",)}[given.figure]:
        if getattr(given, name) is None:
            raise UserError(f"--figure={given.figure} needs --{name}=DIR, a trained run's workdir")
    if given.figure == 4:
        draw_pipeline(given.output)
        return
    apanet = open_trained(given.apanet, given.options)
    if given.figure == 6:
        baseline = open_trained(given.baseline, given.options)
        drawn = episodes_figure(baseline, apanet, given.shot, given.episodes, given.side)
    else:
        drawn = regions_figure(apanet, given.columns, given.side)
    write_figure(given.output, drawn)


if __name__ == "__main__":
    main()
