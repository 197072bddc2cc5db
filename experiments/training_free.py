"""What no learning at all gives: the largest cosine to the support's foreground, and a threshold.

    python experiments/training_free.py --config=configs/folder.py:records=RECORDS,folds=all

For each fold the threshold is the one with the highest mIoU on training episodes, whose classes
are the base classes; it is then applied to the novel classes' test episodes.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from apanet_jax.command_line import config_of, run_command
from apanet_jax.evaluate import score
from apanet_jax.metrics import SummedCounts, count_pixels
from apanet_jax.models.prior import largest_cosine
from apanet_jax.models.resize import resize_bilinear
from apanet_jax.run import Run, make_run
from apanet_jax.variants import parts

THRESHOLDS = tuple(np.round(np.arange(0.3, 0.95, 0.05), 2).tolist())
TRAINING_EPISODES = 400

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings: data, backbone, episodes.")


@functools.partial(jax.jit, static_argnums=0)
def similarity(network, backbone_parameters, batch):
    """Returns `[B, h, w]`: the largest cosine to each support's foreground, mean over supports."""
    query, support = network.embed_episode(backbone_parameters, batch)
    count, shot, height, width, channels = support.middle.shape
    foreground = resize_bilinear(
        (batch["support_labels"] == 1).astype(jnp.float32)[..., None], (height, width)
    )
    cosines = [
        largest_cosine(
            query.middle.reshape(count, -1, channels).astype(jnp.float32),
            support.middle[:, k].reshape(count, -1, channels).astype(jnp.float32),
            foreground[:, k].reshape(count, -1),
        )
        for k in range(shot)
    ]
    return jnp.mean(jnp.stack(cosines), 0).reshape(count, height, width)


def choose_threshold(run: Run) -> float:
    """Returns the threshold with the highest mIoU on base-class training episodes."""
    sums = {t: SummedCounts(len(run.records.class_names)) for t in THRESHOLDS}
    with run.training_batches(0) as batches:
        for _ in range(TRAINING_EPISODES // run.config.training.batch_size):
            batch = next(batches)
            cosine = similarity(run.network, run.backbone_parameters, batch)
            resized = resize_bilinear(cosine[..., None], batch["query_label"].shape[1:3])[..., 0]
            for threshold, total in sums.items():
                counts = count_pixels(resized > threshold, batch["query_label"])
                total.add(counts, batch["class_id"])
    return max(THRESHOLDS, key=lambda t: sums[t].scores().miou)


def training_free(run: Run) -> dict[str, float | dict[str, float]]:
    """Returns the threshold and, by shot, the novel classes' mIoU and FB-IoU of a fold."""
    threshold = choose_threshold(run)
    row = {"fold": run.config.fold, "threshold": threshold}
    for shot in run.test_shots:
        sums = SummedCounts(len(run.records.class_names))
        with run.evaluation_batches(shot, run.test_count) as batches:
            for batch in batches:
                cosine = similarity(run.network, run.backbone_parameters, batch)
                counts = score(cosine - threshold, batch["original_label"], batch["original_side"])
                sums.add(counts, batch["class_id"], batch["valid"])
        scores = sums.scores()
        row[f"{shot}-shot"] = {"miou": scores.miou, "fb_iou": scores.fb_iou}
    return row


def main() -> None:
    """Prints a line per fold."""
    config, _ = config_of(_CONFIG)
    runs = [make_run(part.config) for part in parts(config)]
    for run in runs:
        print(training_free(run), flush=True)


if __name__ == "__main__":
    run_command(main)
