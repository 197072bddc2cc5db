"""What matching without any training scores: similarity to the supports, and a threshold.

    python experiments/paper/training_free.py --workdir=WORKDIR \
        --config=configs/folder.py:records=RECORDS,folds=all [--methods=density_ratio,…]

Methods, on the features that a head would be trained on:
  cosine: each query position's largest cosine to the support's foreground positions.
  stretched: the same, min-max normalised over the image.
  prototype: the cosine to the foreground's mean, less the largest one to the means of the support's
    background, clustered in three by k-means.
  density_ratio: `kernels.density_ratio` of all supports together, by block 4, times the bandwidth.
  density_clusters: half of it, and half its mean over the query's cluster that the position is in,
    by k-means.
The maps of several supports are averaged, but for the density ratios. For each fold, method and
number of supports the threshold, and with it the bandwidth and the number of clusters, is the one
with the highest mIoU on training episodes, whose classes are the base classes; it is then applied
to the novel classes' test episodes. WORKDIR/seed*/fold*/training_free_<method>/ holds what a
trained run would leave there: results.json and every episode's counts.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.evaluation.metrics import EpisodeCounts, SummedCounts, count_pixels
from apanet_jax.evaluation.protocol import count_episodes, score
from apanet_jax.kernels.density_ratio import density_ratio
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.models.prior import (
    contrast_margin,
    contrast_prototypes,
    largest_cosine,
    shot_prior,
)
from apanet_jax.models.prototypes import cluster_means
from apanet_jax.models.resize import at_size, resize_bilinear
from apanet_jax.runs.run import Run, make_run
from apanet_jax.runs.scoring import TrainedHead, result, write_counts
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.paper.run_lines import TRAINING_FREE

_COSINES = np.round(np.arange(0.30, 0.95, 0.05), 2)
_RATIOS = np.round(np.arange(-0.10, 0.105, 0.01), 2)
_BANDWIDTHS = (0.05, 0.1, 0.2, 0.4)


class Choice(NamedTuple):
    """What a method leaves open.

    Attributes:
      thresholds: of its maps.
      options: keyword arguments to choose among.
    """

    thresholds: Float[np.ndarray, " thresholds"]
    options: tuple[Mapping[str, Any], ...] = ({},)


METHODS = {
    "cosine": Choice(_COSINES),
    "stretched": Choice(_COSINES),
    "prototype": Choice(np.round(np.arange(-0.20, 0.42, 0.05), 2)),
    "density_ratio": Choice(_RATIOS, tuple({"bandwidth": h} for h in _BANDWIDTHS)),
    "density_clusters": Choice(
        _RATIOS,
        tuple({"bandwidth": h, "clusters": n} for h in (0.1, 0.2) for n in (8, 16, 32)),
    ),
}
TRAINING_EPISODES = 400
_OPTIONS = ("bandwidth", "clusters")


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data, backbone, episodes")
    parser.add_argument("--workdir", type=Path, required=True, help="where results go")
    methods = harness.some_of(METHODS)
    parser.add_argument("--methods", type=methods, default=",".join(METHODS), help="all of them")
    return parser


def similarity(
    method: str,
    query: Float[Array, "positions channels"],
    support: Float[Array, "positions channels"],
    labels: Float[Array, "positions 2"],
) -> Float[Array, " positions"]:
    """Returns how similar each position of a query is to a support's foreground.

    Args:
      method: one of `METHODS` that takes supports one by one.
      query: features.
      support: features.
      labels: shares of background and foreground at each position of the support.
    """
    background, foreground = labels[:, 0], labels[:, 1]
    if method == "cosine":
        return largest_cosine(query, support, foreground)
    if method == "stretched":
        return shot_prior(query, support, foreground)
    return contrast_margin(query, contrast_prototypes(support, foreground, background))


def ratio_map(
    query: Float[Array, "positions channels"],
    supports: Float[Array, "shot positions channels"],
    labels: Float[Array, "shot positions 2"],
    bandwidth: float,
    clusters: int = 0,
) -> Float[Array, " positions"]:
    """Returns the density ratio of all supports together times the bandwidth, in [-2, 2].

    Args:
      query: features.
      supports: features.
      labels: shares of background and foreground at each position of the supports.
      bandwidth: of the densities.
      clusters: how many clusters of the query half of it is averaged in; 0: none.
    """
    positions = supports.reshape(-1, supports.shape[-1])
    background, foreground = labels.reshape(-1, 2).T
    found = bandwidth * density_ratio(query, positions, foreground, background, bandwidth)
    if not clusters:
        return found
    assignment = kmeans(query, clusters).assignment
    means = cluster_means(found[None, :, None, None], assignment[None, :, None], clusters)
    return (found + means[0, :, 0, 0]) / 2


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def maps(
    network, method, backbone_parameters, batch, options=()
) -> Float[Array, "batch height width"]:
    """Returns each query's similarity to its supports; `options`: pairs of name and value."""
    query, support = network.embed_episode(backbone_parameters, batch)
    head = network.head
    count, shot, height, width, _ = support.middle.shape
    size = height, width
    labels = jnp.stack(
        [at_size(batch["support_labels"] == x, size, centred=head.centred) for x in (0, 1)], -1
    ).reshape(count, shot, -1, 2)
    name = "density_ratio" if method.startswith("density") else "middle"
    of_query, of_support = (head.features_of(name, x).astype(jnp.float32) for x in (query, support))
    of_query = of_query.reshape(count, height * width, -1)
    of_support = of_support.reshape(count, shot, height * width, -1)

    def one_episode(query, supports, labels):
        if name == "density_ratio":
            return ratio_map(query, supports, labels, **dict(options))
        shots = jax.lax.map(lambda x: similarity(method, query, *x), (supports, labels))
        return shots.mean(0)

    found = jax.lax.map(lambda x: one_episode(*x), (of_query, of_support, labels))
    return found.reshape(count, height, width)


@functools.partial(jax.jit, static_argnums=3)
def _counts_above(thresholds, found, label, centred):
    resized = resize_bilinear(found[..., None], label.shape[1:3], centred=centred)[..., 0]
    return jax.vmap(lambda threshold: count_pixels(resized > threshold, label))(thresholds)


@functools.partial(jax.jit, static_argnums=4)
def _score(found, threshold, label, side, resizing):
    return score(found - threshold, label, side, resizing)


def choose(run: Run, method: str) -> tuple[float, tuple[tuple[str, Any], ...]]:
    """Returns the threshold and options with the highest mIoU on the run's training episodes."""
    thresholds, all_options = METHODS[method]
    options = [tuple(x.items()) for x in all_options]
    choices = [(threshold, one) for one in options for threshold in thresholds]
    sums = [SummedCounts(len(run.records.class_names)) for _ in choices]
    with run.data.training_batches(0) as batches:
        for _ in range(TRAINING_EPISODES // run.settings.training.batch_size):
            batch = next(batches)
            for number, one in enumerate(options):
                found = maps(run.network, method, run.loaded.backbone_parameters, batch, one)
                counts = jax.device_get(
                    _counts_above(thresholds, found, batch["query_label"], run.network.head.centred)
                )
                for place in range(len(thresholds)):
                    of_threshold = EpisodeCounts(*(x[place] for x in counts))
                    sums[number * len(thresholds) + place].add(of_threshold, batch["class_id"])
    best = max(range(len(choices)), key=lambda number: sums[number].scores().miou)
    return float(choices[best][0]), choices[best][1]


def evaluate(run: Run, method: str, workdir: Path) -> list[dict[str, Any]]:
    """Scores a method on a fold's test episodes; leaves results.json and the episodes' counts."""
    results = []
    for shot in run.data.test_shots:
        with_shots = dataclasses.replace(run.settings, shot=shot)
        threshold, options = choose(make_run(with_shots), method)

        def count(batch, threshold=threshold, options=options):
            found = maps(run.network, method, run.loaded.backbone_parameters, batch, options)
            label, side = batch["original_label"], batch["original_side"]
            return _score(found, threshold, label, side, run.evaluator.resizing)

        with run.data.test_batches(shot, range(run.data.test_count)) as batches:
            counts, class_id = count_episodes(count, batches, episodes=run.data.test_count)
        row = result(run, TrainedHead("none", None, None), shot, counts, class_id)
        row |= {"num_clusters": None, "agnostic_weight": None}
        row["image_size"] = run.settings.image_size
        results.append(row | {"method": method, "threshold": threshold} | dict(options))
        write_counts(run, workdir, "none", shot, counts)
    write_json(workdir / "results.json", results)
    return results


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per fold, method and number of supports."""
    given = arguments().parse_args(argv)
    given.config.variants = {}
    for part in parts(given.config):
        run = make_run(part.config)
        for method in given.methods:
            folder = given.workdir / part.group / f"{TRAINING_FREE}_{method}"
            for row in evaluate(run, method, folder):
                print(
                    f"fold {row['fold']}, {method}, {row['shot']}-shot: mIoU {row['miou']:.1f}, "
                    f"FB-IoU {row['fb_iou']:.1f} "
                    f"(threshold {row['threshold']:.2f}"
                    + "".join(f", {name} {row[name]}" for name in _OPTIONS if name in row)
                    + ")",
                    flush=True,
                )


if __name__ == "__main__":
    main()
