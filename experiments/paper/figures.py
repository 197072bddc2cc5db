"""The paper's Figures 6, episodes, and 7, regions of the background, from trained runs.

    python experiments/paper/figures.py --figure=6 --baseline=DIR --apanet=DIR --output=FILE.png
    python experiments/paper/figures.py --figure=7 --apanet=DIR --output=FILE.png

DIR is the workdir of one trained run (in a sweep's, seed0/fold0/apanet and the like). Beside
FILE.png lies FILE.json with the rule that chose the episodes or images and what it chose; both are
printed.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
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
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.paper.run_lines import APANET, BASELINE

QUANTILES = (10, 30, 50, 70, 90)
CLUSTERS = 3
PYRAMID_SIDE = 2
_TEXT = 13
_COLOURS = 256

Sheet = tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]
"""A figure, and what its JSON says of it."""


class Trained(NamedTuple):
    """A run and the head that it trained."""

    run: Run
    head: TrainedHead


class Choice(NamedTuple):
    """An episode of Figure 6, and why it is shown."""

    episode: int
    why: str


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--figure", type=int, choices=(6, 7), required=True)
    parser.add_argument("--output", type=_png, required=True, help="PNG to write")
    parser.add_argument("--baseline", type=Path, help="workdir of the baseline")
    parser.add_argument("--apanet", type=Path, required=True, help="workdir of APANet")
    parser.add_argument("--options", default="", help="for their configs, as records=RECORDS")
    parser.add_argument("--shot", type=harness.whole(1), help="Figure 6: supports")
    parser.add_argument("--episodes", type=harness.whole(1), help="Figure 6: to choose from")
    parser.add_argument("--columns", type=harness.whole(1), default=6, help="Figure 7: images (6)")
    parser.add_argument("--side", type=harness.whole(32), default=136, help="of an image (136)")
    return parser


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, not {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws the figure that is asked for."""
    given = arguments().parse_args(argv)
    if given.figure == 6 and given.baseline is None:
        raise UserError("--figure=6 needs --baseline=DIR, a trained run's workdir")
    apanet = open_trained(given.apanet, given.options)
    if given.figure == 6:
        baseline = open_trained(given.baseline, given.options)
        sheet = episodes_figure(baseline, apanet, given.shot, given.episodes, given.side)
    else:
        sheet = regions_figure(apanet, given.columns, given.side)
    write_figure(given.output, sheet)


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
    run = make_run(harness.read_config(f"saved:{workdir / 'config.json'},{options}"))
    return Trained(run, trained_heads(run, workdir)[0])


def choose_episodes(
    queries: Int[np.ndarray, " episodes"],
    baseline: Float[np.ndarray, " episodes"],
    apanet: Float[np.ndarray, " episodes"],
    wrong: Int[np.ndarray, " episodes"],
) -> list[Choice]:
    """Chooses by `rule`: quantiles of the difference, APANet's worst, and its largest loss.

    Args:
      queries: the episodes' query images.
      baseline: its IoU in each.
      apanet: its IoU in each.
      wrong: APANet's wrong pixels in each.

    Raises:
      UserError: there are fewer query images than columns.
    """
    columns = len(QUANTILES) + 2
    if len(np.unique(queries)) < columns:
        raise UserError(
            f"the test episodes have {len(np.unique(queries))} query images, "
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
        f"All {count} {shot}-shot test episodes of fold {run.settings.fold}, sorted by the IoU of "
        "APANet less that of the baseline, the worst for APANet first (of equals, the earlier). "
        f"Shown are those at {quantiles} % of the way; then the one with APANet's lowest IoU (of "
        "equals, the one with the most wrong pixels); then the one with its largest loss against "
        "the baseline. No query image is shown twice: instead of such an episode the nearest in "
        "the order is shown."
    )


def episodes_figure(
    baseline: Trained, apanet: Trained, shot: int | None, episodes: int | None, side: int
) -> Sheet:
    """Draws Figure 6: supports, query with the true mask, predictions of baseline and APANet.

    Args:
      baseline: trained without the class-agnostic branch.
      apanet: trained with it, to be tested on the same episodes.
      shot: supports; None: the first number that the runs test with.
      episodes: how many to choose from; None: as many as the runs test with.
      side: of each image, pixels.

    Raises:
      UserError: the two have other test episodes, or too few.
    """
    run, heads = apanet.run, {BASELINE: baseline, APANET: apanet}
    shot, count = shot or run.data.test_shots[0], episodes or run.data.test_count
    tested = [list(map(one.run.data.draw_test(shot), range(count))) for one in heads.values()]
    if run.records.fingerprint != baseline.run.records.fingerprint or tested[0] != tested[1]:
        raise UserError(
            "the two runs have other test episodes: give runs of the same records, fold and "
            "settings under data. and evaluation."
        )
    iou, wrong = {}, {}
    for name, trained in heads.items():
        counts, _ = trained.run.evaluator.count(trained.head.parameters, shot, count)
        iou[name] = 100 * counts.intersection[:, 1] / np.maximum(counts.union[:, 1], 1)
        wrong[name] = counts.union[:, 1] - counts.intersection[:, 1]
    queries = np.array([episode.query for episode in tested[0]])
    choices = choose_episodes(queries, iou[BASELINE], iou[APANET], wrong[APANET])
    chosen = tuple(tested[0][choice.episode] for choice in choices)
    masks = {name: _predictions(trained, chosen) for name, trained in heads.items()}
    columns, listed = [], []
    for number, (choice, episode) in enumerate(zip(choices, chosen, strict=True)):
        own_iou = {name: float(own[choice.episode]) for name, own in iou.items()}
        found = {name: own[number] for name, own in masks.items()}
        columns.append(_column(run, choice, episode, found, own_iou))
        listed.append(_listed(run, choice, episode, own_iou))
    labels = ["support"] if shot == 1 else [f"support {k}" for k in range(1, shot + 1)]
    labels += ["query, truth", "baseline", "APANet"]
    rows = list(zip(*columns, strict=True))
    return overlays.sheet(rows, side, labels=labels, text=_TEXT), {
        "rule": rule(run, shot, count),
        **_described(run),
        "better_in": round(100 * float(np.mean(iou[APANET] > iou[BASELINE])), 1),
        "worse_in": round(100 * float(np.mean(iou[APANET] < iou[BASELINE])), 1),
        "episodes": listed,
    }


def _column(
    run: Run, choice: Choice, episode: Episode, found: dict[str, np.ndarray], iou: dict[str, float]
) -> list[tuple[str, np.ndarray]]:
    """Returns the captions and images of an episode, from the supports to APANet's prediction."""
    split = run.records.split("val")
    column = []
    for support in episode.supports:
        read = split[support]
        mask = read["label"] == episode.class_id
        shown = overlays.overlay(read["image"], mask, overlays.GIVEN)
        column.append(("" if column else choice.why, shown))
    query = split[episode.query]
    truth = query["label"] == episode.class_id
    name = run.records.class_names[episode.class_id - 1]
    column.append((name, overlays.overlay(query["image"], truth, overlays.TRUTH)))
    for name, mask in found.items():
        caption = f"IoU {iou[name]:.1f}"
        if name == APANET:
            caption += f" ({iou[name] - iou[BASELINE]:+.1f})"
        own = mask[: truth.shape[0], : truth.shape[1]]
        column.append((caption, overlays.overlay(query["image"], own, overlays.PREDICTION)))
    return column


def _listed(run: Run, choice: Choice, episode: Episode, iou: dict[str, float]) -> dict[str, Any]:
    names = run.records.split("val").names
    return {
        "why": choice.why,
        "episode": choice.episode,
        "class": run.records.class_names[episode.class_id - 1],
        "query": names[episode.query],
        "supports": [names[support] for support in episode.supports],
        **{name: round(own, 1) for name, own in iou.items()},
    }


def regions_figure(apanet: Trained, columns: int, side: int) -> Sheet:
    """Draws Figure 7: training images, their pyramid regions, and their clusters (Eq. 4, 5).

    Args:
      apanet: the run whose training images and clustered features they are.
      columns: how many images.
      side: of each image, pixels.

    Raises:
      UserError: there are fewer training images than columns.
    """
    run, base = apanet.run, apanet.run.data.base
    count = len(base.queries)
    if count < columns:
        raise UserError(f"--columns={columns}, but there are {count} training images")
    split = run.records.split("train")
    chosen = []
    for place in ((2 * np.arange(columns) + 1) * count) // (2 * columns):
        query, classes = base.queries[place], base.classes[place]
        class_id = int(classes[np.argmax(split.areas[query, classes])])
        chosen.append(Episode(int(query), class_id, (int(query),)))
    batch = _training_images(run, chosen)
    clusters = training_clusters(apanet, batch)
    pyramid = np.broadcast_to(grid_regions(*clusters.shape[1:], PYRAMID_SIDE), clusters.shape)
    regions = [at_label_size(maps, batch) for maps in (pyramid, clusters)]
    rows, listed = [[], [], []], []
    for column, episode in enumerate(chosen):
        read = split[episode.query]
        image, foreground = read["image"], read["label"] == episode.class_id
        height, width = foreground.shape
        name = run.records.class_names[episode.class_id - 1]
        rows[0].append((name, overlays.covered(image, foreground)))
        for row, maps in zip(rows[1:], regions, strict=True):
            background = np.where(foreground, -1, maps[column][:height, :width])
            shown = overlays.covered(overlays.cluster_map(image, background), foreground)
            row.append(("", shown))
        listed.append({"image": read["name"], "class": name})
    labels = ["image", f"{PYRAMID_SIDE} x {PYRAMID_SIDE} pyramid", f"k-means, k = {CLUSTERS}"]
    return overlays.sheet(rows, side, labels=labels, text=_TEXT), {
        "rule": f"Of the {count} training images of fold {run.settings.fold}, in the records' "
        f"order, the middles of {columns} equal stretches; in each the base class that covers most "
        "of it is the foreground, under yellow.",
        **_described(run),
        "clustered": f"{run.settings.model.cluster_features} features of "
        f"{run.settings.backbone.name}",
        "images": listed,
    }


def training_clusters(apanet: Trained, batch: Batch) -> Int[jax.Array, "batch height width"]:
    """Returns the queries' clusters, by the head as it is trained but with `CLUSTERS` clusters."""
    run = apanet.run
    head = run.network.head.clone(num_clusters=CLUSTERS)
    network = dataclasses.replace(run.network, head=head)

    @jax.jit
    def clusters(parameters, backbone_parameters, arrays, key):
        return network(parameters, backbone_parameters, arrays, key=key).clusters

    key = jax.random.key(run.settings.seed)
    return clusters(apanet.head.parameters, run.loaded.backbone_parameters, batch, key)


def _predictions(trained: Trained, episodes: tuple[Episode, ...]) -> list[np.ndarray]:
    """Returns the predicted mask of each episode, with the image top left."""
    data = dataclasses.replace(trained.run.data, listed=episodes)
    run = dataclasses.replace(trained.run, data=data)
    masks = []
    with run.data.test_batches(run.data.test_shots[0], range(len(episodes))) as batches:
        for batch in batches:
            found = predict(run, run.network, trained.head.parameters, batch)
            masks += list(found[batch["valid"]])
    return masks


def _training_images(run: Run, episodes: Sequence[Episode]) -> Batch:
    """Returns training images, each its own support, not augmented."""
    split = run.records.split("train")
    label_side = int(split.sizes.max())
    loaded = [
        load_evaluation_episode(split, episodes.__getitem__, run.settings.image_size, label_side, i)
        for i in range(len(episodes))
    ]
    return {name: np.stack([arrays[name] for arrays in loaded]) for name in loaded[0]}


def _described(run: Run) -> dict[str, Any]:
    config = run.settings
    return {
        "dataset": config.dataset or run.records.name,
        "fold": config.fold,
        "backbone": config.backbone.name,
        "training_steps": run.steps,
        "training_seed": config.seed,
    }


def write_figure(output: Path, sheet: Sheet) -> None:
    """Writes the figure, and beside it what it shows, which is also printed."""
    image, content = sheet
    palette = Image.fromarray(image).quantize(_COLOURS, dither=Image.Dither.NONE)
    palette.save(output, optimize=True)
    write_json(output.with_suffix(".json"), content)
    print(content["rule"])
    for row in content.get("episodes", content.get("images")):
        print("  " + ", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"written to {output} and {output.with_suffix('.json')}")


if __name__ == "__main__":
    main()
