"""The training state, the optimizer and the jitted step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.runtime.devices import batch_sharding, replicated
from apanet_jax.runtime.programs import Programs
from apanet_jax.training.losses import Losses, losses


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


def poly_schedule(base: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """Returns base * (1 - step/steps)^power, where the first update is step 1."""

    def rate(count):
        return base * jnp.maximum(1.0 - (count + 1) / steps, 0.0) ** power

    return rate


def optimizer(
    schedule: optax.Schedule, momentum: float = 0.9, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """Returns SGD as PyTorch has it: decay joins the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def create_state(
    network: Network,
    backbone_parameters: Parameters,
    image_size: int,
    transformation: optax.GradientTransformation,
    key: PRNGKeyArray,
    programs: Programs,
) -> TrainState:
    """Draws the head's parameters, for images of `image_size` pixels a side."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    features = jax.eval_shape(network.embed, backbone_parameters, image)
    initialise = programs(_initialiser, network.head, features, image_size)
    parameters = initialise(key)
    return TrainState(jnp.zeros((), jnp.int32), parameters, transformation.init(parameters))


def _initialiser(head: APANet, features: ImageFeatures, image_size: int):
    def initialise(key):
        query = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
        support = jax.tree.map(lambda x: x[:, None], query)
        labels = jnp.zeros((1, 1, image_size, image_size), jnp.uint8)
        return head.init({"params": key}, query, support, labels)["params"]

    return jax.jit(initialise)


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


def make_side_by_side_step(
    network: Network,
    transformation: optax.GradientTransformation,
    mesh: Mesh,
    level_weight: float,
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
      same_batch: whether the heads learn from one batch, whose images are then embedded once.
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
        result = losses(
            outputs,
            batch["query_label"],
            agnostic_weight,
            level_weight,
            centred=network.head.centred,
        )
        return result.total, result

    gradients, result = jax.grad(loss, has_aux=True)(state.parameters)
    updates, momentum = transformation.update(gradients, state.momentum, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(state.step + 1, parameters, momentum), result
