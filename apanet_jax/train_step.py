"""The training state, the loss (Eq. 9), and the jitted step with its shardings."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from apanet_jax.errors import UserError
from apanet_jax.models.apanet import IGNORE, APANet, Outputs, PictureFeatures
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.models.resize import resize_bilinear


class TrainState(NamedTuple):
    """Everything a step changes.

    Attributes:
      step: how many steps were made.
      parameters: of the head; the backbone is not trained and not here.
      momentum: the optimizer's state.
    """

    step: Int[Array, ""]
    parameters: Any
    momentum: Any


class Losses(NamedTuple):
    """The loss of a batch.

    Attributes:
      total: Eq. 9.
      specific: its first term, cross-entropy of the class-specific branch; where the comparison has
        pyramid levels, plus their weight times the mean of their own cross-entropies.
      agnostic: its second term, the same of the class-agnostic branch.
    """

    total: Float[Array, ""]
    specific: Float[Array, ""]
    agnostic: Float[Array, ""]


@functools.lru_cache(maxsize=32)
def poly_schedule(base: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """Returns base * (1 - step/steps)^power, where the first update is step 1."""

    def rate(count):
        return base * jnp.maximum(1.0 - (count + 1) / steps, 0.0) ** power

    return rate


@functools.lru_cache(maxsize=32)
def optimizer(
    schedule: optax.Schedule, *, momentum: float = 0.9, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """Returns SGD as PyTorch has it: decay joins the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def cross_entropy(
    logits: Float[Array, "batch height width 2"], label: UInt8[Array, "batch H W"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over the pixels of a batch whose label is not 255.

    The logits are resized to the label's size first (bilinear, aligned corners). With two classes
    only their difference matters, so that alone is resized.
    """
    difference = resize_bilinear((logits[..., 1] - logits[..., 0])[..., None], label.shape[1:3])
    difference = difference[..., 0]
    pixel_loss = jax.nn.softplus(difference) - (label == 1) * difference
    valid = (label != IGNORE).astype(jnp.float32)
    return jnp.sum(pixel_loss * valid) / jnp.maximum(jnp.sum(valid), 1.0)


def complement(
    label: UInt8[Array, "batch H W"], valid: Float[Array, " batch"]
) -> UInt8[Array, "batch H W"]:
    """Returns 1 - M, the class-agnostic branch's target (Eq. 9).

    255 stays, and fills the whole picture where it had no background to learn from.
    """
    flipped = jnp.where(label == IGNORE, IGNORE, 1 - label).astype(jnp.uint8)
    return jnp.where(valid[:, None, None] > 0, flipped, jnp.uint8(IGNORE))


def losses(
    outputs: Outputs,
    label: UInt8[Array, "batch H W"],
    agnostic_weight: float,
    level_weight: float = 1.0,
) -> Losses:
    """Returns Eq. 9: (1 - lambda) L1 + lambda L2, or L1 alone without a class-agnostic branch.

    Args:
      outputs: of the head, in training.
      label: 1 where the class is, 0 elsewhere, 255 to ignore.
      agnostic_weight: lambda.
      level_weight: of the pyramid levels' mean beside the main term, within L1 and within L2.
    """
    if outputs.resembling is not None:
        resembling = resize_bilinear(outputs.resembling[..., None], label.shape[1:3])[..., 0]
        label = jnp.where((resembling >= 0.5) & (label == 0), jnp.uint8(IGNORE), label)
    specific = _with_levels(outputs.logits, outputs.levels, label, level_weight)
    if outputs.agnostic_logits is None:
        return Losses(specific, specific, jnp.zeros(()))
    target = complement(label, outputs.agnostic_valid)
    target = jnp.tile(target, (len(outputs.agnostic_logits) // len(target), 1, 1))
    agnostic = _with_levels(outputs.agnostic_logits, outputs.agnostic_levels, target, level_weight)
    total = (1 - agnostic_weight) * specific + agnostic_weight * agnostic
    return Losses(total, specific, agnostic)


def _with_levels(logits, levels, label, level_weight) -> Float[Array, ""]:
    loss = cross_entropy(logits, label)
    if not levels:
        return loss
    return loss + level_weight * sum(cross_entropy(x, label) for x in levels) / len(levels)


def data_mesh(devices: int | None = None) -> Mesh:
    """Returns a mesh with one axis, "data", over `devices` devices of each process (None: all).

    Raises:
      UserError: a process has not so many.
    """
    chosen = []
    for process in range(jax.process_count()):
        own = [device for device in jax.devices() if device.process_index == process]
        if devices and len(own) < devices:
            raise UserError(
                f"devices={devices}, but there are {len(own)}: take fewer, or 0 for all"
            )
        chosen += own[:devices]
    # In the order of processes, so that each one's share of a batch is one piece.
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, of_heads: bool = False) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch, the second if `of_heads`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * of_heads, "data"))


def create_state(
    network: Network,
    backbone_parameters: Parameters,
    image_size: int,
    transformation: optax.GradientTransformation,
    key: PRNGKeyArray,
) -> TrainState:
    """Draws the head's parameters, for pictures of `image_size` pixels a side."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    features = jax.eval_shape(network.embed, backbone_parameters, image)
    parameters = _initialiser(network.head, features, image_size)(key)
    return TrainState(jnp.zeros((), jnp.int32), parameters, transformation.init(parameters))


@functools.lru_cache(maxsize=8)
def _initialiser(head: APANet, features: PictureFeatures, image_size: int):
    def initialise(key):
        query = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
        support = jax.tree.map(lambda x: x[:, None], query)
        labels = jnp.zeros((1, 1, image_size, image_size), jnp.uint8)
        return head.init({"params": key}, query, support, labels)["params"]

    return jax.jit(initialise)


# A sweep's runs that differ in fold or seed share one compiled step.
@functools.lru_cache(maxsize=32)
def make_step(
    network: Network,
    transformation: optax.GradientTransformation,
    agnostic_weight: float,
    mesh: Mesh,
    level_weight: float = 1.0,
) -> Callable[[TrainState, Parameters, Batch, PRNGKeyArray], tuple[TrainState, Losses]]:
    """Returns the jitted step `(state, backbone_parameters, batch, key) -> (state, losses)`.

    The batch's first axis is spread over the mesh; the state is donated. `key` is the run's: each
    step folds its number into it, so that a run that goes on draws what it would have drawn.
    """
    step = functools.partial(
        _step, network, transformation, level_weight, agnostic_weight=agnostic_weight
    )
    whole, spread = replicated(mesh), batch_sharding(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, whole, spread, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


@functools.lru_cache(maxsize=8)
def make_side_by_side_step(
    network: Network,
    transformation: optax.GradientTransformation,
    mesh: Mesh,
    level_weight: float = 1.0,
    *,
    same_batch: bool,
    at_once: bool,
) -> Callable[
    [TrainState, Parameters, Batch, PRNGKeyArray, Float[Array, " heads"]],
    tuple[TrainState, Losses],
]:
    """Returns `make_step`'s step for several heads: `(states, backbone_parameters, batches, keys,
    agnostic_weights) -> (states, losses)`.

    Args:
      network: of every head.
      transformation: of every head.
      mesh: the devices.
      level_weight: of every head.
      same_batch: whether the heads learn from one batch, whose pictures are then embedded once.
        Otherwise the batches, like everything else that a head has, have a leading axis of heads.
      at_once: whether the heads go through every operation together, by `jax.vmap`, or one after
        another: a CPU is busy with one of them, and slower with kernels of several.
    """

    def steps(states, backbone_parameters, batches, keys, agnostic_weights):
        def one(state, key, agnostic_weight, batch=batches):
            return _step(
                network,
                transformation,
                level_weight,
                state,
                backbone_parameters,
                batch,
                key,
                agnostic_weight=agnostic_weight,
            )

        of_heads = (states, keys, agnostic_weights, *([] if same_batch else [batches]))
        if at_once:
            return jax.vmap(one)(*of_heads)
        return jax.lax.map(lambda x: one(*x), of_heads)

    whole = replicated(mesh)
    spread = batch_sharding(mesh, of_heads=not same_batch)
    return jax.jit(
        steps,
        in_shardings=(whole, whole, spread, whole, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def _step(
    network,
    transformation,
    level_weight,
    state,
    backbone_parameters,
    batch,
    key,
    *,
    agnostic_weight,
) -> tuple[TrainState, Losses]:
    key = jax.random.fold_in(key, state.step)

    def loss(parameters):
        outputs = network(parameters, backbone_parameters, batch, key=key)
        result = losses(outputs, batch["query_label"], agnostic_weight, level_weight)
        return result.total, result

    gradients, result = jax.grad(loss, has_aux=True)(state.parameters)
    updates, momentum = transformation.update(gradients, state.momentum, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(state.step + 1, parameters, momentum), result
