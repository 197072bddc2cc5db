"""Evaluation by the protocol: fixed episodes, scored at the original label's resolution."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from apanet_jax.evaluation.metrics import EpisodeCounts, count_pixels
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.models.resize import bilinear_matrix
from apanet_jax.runtime.devices import batch_sharding, replicated
from apanet_jax.runtime.programs import Programs

Count = Callable[[Batch], EpisodeCounts]

AS_COMPUTED = "computed"
"""The type of features that are kept as the backbone gives them."""


class Resizing(NamedTuple):
    """How logits come to a label's size.

    Attributes:
      centred: whether positions are the centres of patches; otherwise corners are aligned.
      through: side of the network's input in pixels, to which logits are resized first, as in
        PFENet; None: they are resized to the label's size at once.
    """

    centred: bool = False
    through: int | None = None


ONE_STEP = Resizing()
"""From aligned corners to the label's size at once."""


def resize_to_label(
    logits: Float[Array, "batch height width"],
    side: Int[Array, " batch"],
    size: int,
    resizing: Resizing = ONE_STEP,
) -> Float[Array, "batch size size"]:
    """Resizes each map to a square of its own `side`, bilinearly, top left.

    Args:
      logits: square maps.
      side: the longer side of each original label, at most `size`.
      size: of the result; what lies beyond `side` means nothing.
      resizing: in which steps.
    """

    def one_axis(count: int, side):
        samples = resizing.through or count
        if resizing.centred:
            position = (jnp.arange(size) + 0.5) * (samples / side) - 0.5
            position = jnp.clip(position, 0, samples - 1)
        else:
            position = jnp.arange(size) * ((samples - 1) / jnp.maximum(side - 1, 1))
        weights = jnp.maximum(1.0 - jnp.abs(position[:, None] - jnp.arange(samples)), 0.0)
        if resizing.through is None:
            return weights
        first = bilinear_matrix(count, samples, centred=resizing.centred)
        return jnp.matmul(weights, first, precision="highest")

    def one_map(logits, side):
        rows = one_axis(logits.shape[0], side)
        columns = one_axis(logits.shape[1], side)
        return jnp.einsum("Hh,hw,Ww->HW", rows, logits, columns, precision="highest")

    return jax.vmap(one_map)(logits, side)


def score(
    difference: Float[Array, "batch height width"],
    label: Int[Array, "batch size size"],
    side: Int[Array, " batch"],
    resizing: Resizing = ONE_STEP,
) -> EpisodeCounts:
    """Counts a batch's pixels at the original size.

    Args:
      difference: foreground above background; above 0 is foreground.
      label: the original labels, top left, 255 elsewhere.
      side: the longer side of each.
      resizing: in which steps `difference` comes to that size.
    """
    return count_pixels(resize_to_label(difference, side, label.shape[-1], resizing) > 0, label)


def make_count(
    network: Network,
    parameters: Parameters,
    backbone_parameters: Parameters,
    mesh: Mesh,
    programs: Programs,
    resizing: Resizing = ONE_STEP,
    stored: str = AS_COMPUTED,
) -> Count:
    """Returns the function from an evaluation batch to its episodes' counts.

    Args:
      network: backbone and head.
      parameters: of the head.
      backbone_parameters: of the backbone.
      mesh: the devices.
      programs: compiled functions.
      resizing: see `score`.
      stored: the type that features are compared in, see `stored_as`.
    """
    count = programs(_compiled_count, network, mesh, resizing, stored)
    spread = batch_sharding(mesh)
    return lambda batch: count(parameters, backbone_parameters, jax.device_put(batch, spread))


def stored_as(name: str, features: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns features in a type of that name, or as they are if it is `AS_COMPUTED`."""
    return features if name == AS_COMPUTED else features.astype(name)


def _compiled_count(network: Network, mesh: Mesh, resizing: Resizing, stored: str):
    """Returns one jitted function for all parameters, so that a sweep compiles it once."""

    def count(parameters, backbone_parameters, batch):
        if stored != AS_COMPUTED:
            images = network.embed_episode(backbone_parameters, batch)
            for role, features in zip(("query", "support"), images, strict=True):
                for name, x in features._asdict().items():
                    if x is not None:
                        batch = {**batch, f"{role}_{name}": stored_as(stored, x)}
        logits = network(parameters, backbone_parameters, batch).logits
        return score(
            logits[..., 1] - logits[..., 0],
            batch["original_label"],
            batch["original_side"],
            resizing,
        )

    whole, spread = replicated(mesh), batch_sharding(mesh)
    return jax.jit(count, in_shardings=(whole, whole, spread), out_shardings=spread)


def count_episodes(
    count: Count,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    episodes: int,
    description: str = "evaluating",
) -> tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]:
    """Returns the counts and the class of every episode, in their order.

    Args:
      count: from a batch to its episodes' counts.
      batches: evaluation episodes; those with a false `valid` only fill up the last batch.
      episodes: how many there are, for the progress bar.
      description: what the progress bar says.
    """
    counted = []
    pending = None

    def fetch(counts, class_id, valid):
        counted.append([np.asarray(x)[valid] for x in (*counts, class_id)])
        progress.update(int(valid.sum()))

    with tqdm(
        total=episodes, unit="episode", desc=description, leave=False, disable=None
    ) as progress:
        for batch in batches:
            # The device works on this batch while the counts of the one before are fetched.
            started = (count(batch), batch["class_id"], batch["valid"])
            if pending is not None:
                fetch(*pending)
            pending = started
        if pending is not None:
            fetch(*pending)
    intersection, union, class_id = (np.concatenate(parts) for parts in zip(*counted, strict=True))
    return EpisodeCounts(intersection, union), class_id
