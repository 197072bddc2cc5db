"""What matching without any training scores: similarity to the supports, and a threshold.

    python experiments/paper/training_free.py --workdir=WORKDIR \
        --config=configs/folder.py:records=RECORDS,folds=all

Methods, on the features that a head would be trained on:
  cosine: each query position's largest cosine to the support's foreground positions.
  stretched: the same, min-max normalised over the image.
  prototype: the cosine to the foreground's mean, less the largest one to the means of the support's
    background, clustered in three by k-means.
The maps of several supports are averaged. For each fold, method and number of supports the
threshold is the one with the highest mIoU on training episodes, whose classes are the base classes;
it is then applied to the novel classes' test episodes. WORKDIR/seed*/fold*/training_free_<method>/
holds what a trained run would leave there: results.json and every episode's counts.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.evaluation.metrics import EpisodeCounts, SummedCounts, count_pixels
from apanet_jax.evaluation.protocol import count_episodes, score
from apanet_jax.models.apanet import at_size
from apanet_jax.models.prior import (
    contrast_margin,
    contrast_prototypes,
    largest_cosine,
    shot_prior,
)
from apanet_jax.models.resize import resize_bilinear
from apanet_jax.runs.run import Run, make_run
from apanet_jax.runs.scoring import TrainedHead, result, write_counts
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.paper.run_lines import TRAINING_FREE

THRESHOLDS = {
    "cosine": np.round(np.arange(0.30, 0.95, 0.05), 2),
    "stretched": np.round(np.arange(0.30, 0.95, 0.05), 2),
    "prototype": np.round(np.arange(-0.20, 0.42, 0.05), 2),
}
TRAINING_EPISODES = 400


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data, backbone, episodes")
    parser.add_argument("--workdir", type=Path, required=True, help="where results go")
    return parser


def similarity(
    method: str,
    query: Float[Array, "positions channels"],
    support: Float[Array, "positions channels"],
    labels: Float[Array, "positions 2"],
) -> Float[Array, " positions"]:
    """Returns how similar each position of a query is to a support's foreground.

    Args:
      method: one of `THRESHOLDS`.
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


@functools.partial(jax.jit, static_argnums=(0, 1))
def maps(network, method, backbone_parameters, batch) -> Float[Array, "batch height width"]:
    """Returns each query's similarity, the mean over its supports."""
    query, support = network.embed_episode(backbone_parameters, batch)
    count, shot, height, width, channels = support.middle.shape
    labels = jnp.stack([at_size(batch["support_labels"] == x, (height, width)) for x in (0, 1)], -1)
    of_query = query.middle.reshape(count, -1, channels).astype(jnp.float32)
    of_support = support.middle.reshape(count, shot, -1, channels).astype(jnp.float32)

    def one_episode(query, supports, labels):
        shots = jax.lax.map(lambda x: similarity(method, query, *x), (supports, labels))
        return shots.mean(0)

    found = jax.vmap(one_episode)(of_query, of_support, labels.reshape(count, shot, -1, 2))
    return found.reshape(count, height, width)


@jax.jit
def _counts_above(thresholds, found, label):
    resized = resize_bilinear(found[..., None], label.shape[1:3])[..., 0]
    return jax.vmap(lambda threshold: count_pixels(resized > threshold, label))(thresholds)


@jax.jit
def _score(found, threshold, label, side):
    return score(found - threshold, label, side)


def choose_threshold(run: Run, method: str) -> float:
    """Returns the threshold with the highest mIoU on the run's training episodes."""
    thresholds = THRESHOLDS[method]
    sums = [SummedCounts(len(run.records.class_names)) for _ in thresholds]
    with run.data.training_batches(0) as batches:
        for _ in range(TRAINING_EPISODES // run.settings.training.batch_size):
            batch = next(batches)
            found = maps(run.network, method, run.loaded.backbone_parameters, batch)
            counts = jax.device_get(_counts_above(thresholds, found, batch["query_label"]))
            for number, total in enumerate(sums):
                of_threshold = EpisodeCounts(*(x[number] for x in counts))
                total.add(of_threshold, batch["class_id"])
    return float(max(zip(thresholds, sums, strict=True), key=lambda x: x[1].scores().miou)[0])


def evaluate(run: Run, method: str, workdir: Path) -> list[dict[str, Any]]:
    """Scores a method on a fold's test episodes; leaves results.json and the episodes' counts."""
    results = []
    for shot in run.data.test_shots:
        with_shots = dataclasses.replace(run.settings, shot=shot)
        threshold = choose_threshold(make_run(with_shots), method)

        def count(batch, threshold=threshold):
            found = maps(run.network, method, run.loaded.backbone_parameters, batch)
            return _score(found, threshold, batch["original_label"], batch["original_side"])

        with run.data.test_batches(shot, range(run.data.test_count)) as batches:
            counts, class_id = count_episodes(count, batches, episodes=run.data.test_count)
        row = result(run, TrainedHead("none", None, None), shot, counts, class_id)
        row |= {"num_clusters": None, "agnostic_weight": None}
        row["image_size"] = run.settings.image_size
        results.append(row | {"method": method, "threshold": threshold})
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
        for method in THRESHOLDS:
            folder = given.workdir / part.group / f"{TRAINING_FREE}_{method}"
            for row in evaluate(run, method, folder):
                print(
                    f"fold {row['fold']}, {method}, {row['shot']}-shot: mIoU {row['miou']:.1f}, "
                    f"FB-IoU {row['fb_iou']:.1f} (threshold {row['threshold']:.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
