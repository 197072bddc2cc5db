"""Images of test episodes: what was given, what was to be found, what was found."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from PIL import Image

from apanet_jax.evaluation.protocol import Resizing, resize_to_label
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.reports import overlays
from apanet_jax.runs.run import Run

_CLUSTERS_SHOWN = 3


def write_episode_images(
    run: Run, heads: Mapping[str, tuple[Network, Parameters]], directory: Path
) -> list[Path]:
    """Draws the first `config.evaluation.pictures` test episodes, one PNG each.

    An image shows the support with its mask, the query with the truth, each head's prediction
    with its intersection over union, and the clusters of the query's high-level features.

    Args:
      run: data, backbone and settings.
      heads: by the name to show, a network on the run's backbone and its trained parameters.
      directory: where the images go.
    """
    evaluation = run.settings.evaluation
    shot, count = run.data.test_shots[0], min(evaluation.pictures, run.data.test_count)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with run.data.test_batches(shot, range(count)) as batches:
        for batch in batches:
            found = {name: predict(run, *head, batch) for name, head in heads.items()}
            clusters = _clusters(run, batch)
            for row in np.flatnonzero(batch["valid"]):
                index = int(batch["index"][row])
                panels = _episode_panels(
                    run,
                    index,
                    shot,
                    {name: masks[row] for name, masks in found.items()},
                    clusters[row],
                )
                paths.append(directory / f"episode_{index:04d}.png")
                Image.fromarray(overlays.sheet([panels])).save(paths[-1])
    return paths


def _episode_panels(run, index, shot, found, clusters) -> list[tuple[str, np.ndarray]]:
    episode = run.data.draw_test(shot)(index)
    split = run.records.split("val")
    name = run.records.class_names[episode.class_id - 1]
    panels = []
    for support in episode.supports:
        stored = split[support]
        mask = stored["label"] == episode.class_id
        panels.append((f"support: {name}", overlays.overlay(stored["image"], mask, overlays.GIVEN)))
    query = split[episode.query]
    image, label = query["image"], query["label"]
    height, width = label.shape
    truth = label == episode.class_id
    panels.append(("query, truth", overlays.overlay(image, truth, overlays.TRUTH)))
    for head, mask in found.items():
        mask = mask[:height, :width]
        counted = label != 255
        union = ((mask | truth) & counted).sum()
        iou = 100 * ((mask & truth) & counted).sum() / max(union, 1)
        panels.append(
            (f"{head}: IoU {iou:.0f}", overlays.overlay(image, mask, overlays.PREDICTION))
        )
    shown = overlays.cluster_map(image, clusters[:height, :width])
    panels.append((f"{_CLUSTERS_SHOWN} clusters", shown))
    return panels


def predict(
    run: Run, network: Network, parameters: Parameters, batch: Batch
) -> Bool[np.ndarray, "batch size size"]:
    """Returns the masks that a head predicts at the labels' size, as they are scored, top left.

    Args:
      run: whose backbone it is.
      network: backbone and head.
      parameters: of the head.
      batch: of test episodes.
    """
    masks = run.programs(_compiled_masks, network, run.evaluator.resizing)
    return np.asarray(masks(parameters, run.loaded.local_backbone_parameters, batch))


def _compiled_masks(network: Network, resizing: Resizing):
    """Returns one program for all batches, and for all heads with this network."""

    def masks(parameters, backbone_parameters, batch):
        logits = network(parameters, backbone_parameters, batch).logits
        difference, size = logits[..., 1] - logits[..., 0], batch["original_label"].shape[-1]
        return resize_to_label(difference, batch["original_side"], size, resizing) > 0

    return jax.jit(masks)


def _compiled_embedding(network: Network):
    return jax.jit(network.embed_episode)


def _clusters(run: Run, batch: Batch) -> np.ndarray:
    """Returns the clusters `[B, L, L]` of the queries, as training sees them (Eq. 4)."""
    embed = run.programs(_compiled_embedding, run.network)
    query, _ = embed(run.loaded.local_backbone_parameters, batch)
    features = getattr(query, run.settings.model.cluster_features)
    count, height, width, channels = features.shape
    inside = jax.image.resize(
        (batch["query_label"] != 255).astype(jnp.float32), (count, height, width), "nearest"
    )
    assignment = kmeans(
        features.reshape(count, height * width, channels),
        _CLUSTERS_SHOWN,
        weights=inside.reshape(count, -1),
        init="farthest",
        key=jax.random.key(run.settings.seed),
    ).assignment
    return at_label_size(assignment.reshape(count, height, width), batch)


def at_label_size(
    regions: Int[Array, "batch height width"], batch: Batch
) -> Int[np.ndarray, "batch size size"]:
    """Returns maps of regions (numbered from 0) at the labels' size, the images top left."""
    number = int(regions.max()) + 1
    maps = jax.nn.one_hot(regions, number)
    size = batch["original_label"].shape[-1]
    resized = [resize_to_label(maps[..., k], batch["original_side"], size) for k in range(number)]
    return np.asarray(jnp.argmax(jnp.stack(resized, -1), -1))
