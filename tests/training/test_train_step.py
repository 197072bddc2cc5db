"""Loss, optimizer and schedule against PyTorch; the step on one and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from apanet_jax.models.apanet import APANet, Outputs
from apanet_jax.models.network import Network
from apanet_jax.runtime.devices import data_mesh, replicated
from apanet_jax.training import train_step
from apanet_jax.training.losses import cross_entropy, losses
from tests.literal import drawn

SIZE, LABEL, CHANNELS, HIGH = 5, 17, 6, 8

NETWORKS = {
    "conv": Network(None, APANet(channels=4, num_clusters=2)),
    "fem": Network(None, APANet(channels=4, num_clusters=2, comparison="fem", pyramid_bins=(3,))),
}
OPTIMIZER = train_step.optimizer(train_step.poly_schedule(0.1, 10))


def episode_batch(batch=8, shot=1, seed=0):
    rng = np.random.default_rng(seed)

    def features(*leading):
        return rng.standard_normal(leading).astype(np.float32)

    def labels(*leading):
        return rng.choice(np.array([0, 1, 255], np.uint8), leading, p=[0.5, 0.4, 0.1])

    return {
        "query_middle": features(batch, SIZE, SIZE, CHANNELS),
        "query_high": features(batch, SIZE, SIZE, HIGH),
        "query_label": labels(batch, LABEL, LABEL),
        "support_middle": features(batch, shot, SIZE, SIZE, CHANNELS),
        "support_high": features(batch, shot, SIZE, SIZE, HIGH),
        "support_labels": labels(batch, shot, LABEL, LABEL),
    }


def step_of(devices, comparison="conv", agnostic_weight=0.5):
    """Compiled once for all tests."""
    return _step_of(devices, comparison, agnostic_weight)


@functools.cache
def _step_of(devices, comparison, agnostic_weight):
    return train_step.make_step(
        NETWORKS[comparison], OPTIMIZER, agnostic_weight, data_mesh(devices)
    )


@functools.cache
def parameters_of(comparison):
    network, batch = NETWORKS[comparison], episode_batch()

    def init():
        embedded = network.embed_episode(None, batch)
        return network.head.init(jax.random.key(0), *embedded, batch["support_labels"])["params"]

    return drawn(jax.eval_shape(init))


def initial(comparison="conv"):
    parameters = parameters_of(comparison)
    return train_step.TrainState(jnp.int32(0), parameters, OPTIMIZER.init(parameters))


def test_cross_entropy_agrees_with_torch():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5, 6, 2)).astype(np.float32)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (3, 11, 13))
    resized = torch.nn.functional.interpolate(
        torch.tensor(logits).permute(0, 3, 1, 2), (11, 13), mode="bilinear", align_corners=True
    )
    expected = torch.nn.functional.cross_entropy(
        resized, torch.tensor(label.astype(np.int64)), ignore_index=255
    )
    np.testing.assert_allclose(cross_entropy(logits, label), expected, rtol=1e-5)


def test_a_batch_of_ignored_pixels_costs_nothing():
    loss = cross_entropy(jnp.ones((1, 2, 2, 2)), jnp.full((1, 4, 4), 255, jnp.uint8))
    assert loss == 0


def test_total_is_equation_9():
    rng = np.random.default_rng(1)
    logits, agnostic = rng.standard_normal((2, 2, 4, 4, 2)).astype(np.float32)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (2, 9, 9))
    outputs = Outputs(logits, None, agnostic, None, np.array([1.0, 0.0], np.float32))
    result = losses(outputs, label, 0.3)
    flipped = np.where(label == 255, 255, 1 - label).astype(np.uint8)
    flipped[1] = 255
    expected = cross_entropy(agnostic, flipped)
    np.testing.assert_allclose(result.agnostic, expected, rtol=1e-6)
    np.testing.assert_allclose(
        result.total, 0.7 * cross_entropy(logits, label) + 0.3 * expected, rtol=1e-6
    )


def test_levels_join_their_own_branch_s_term():
    rng = np.random.default_rng(4)
    logits, agnostic = rng.standard_normal((2, 2, 4, 4, 2)).astype(np.float32)
    levels = [rng.standard_normal((2, n, n, 2)).astype(np.float32) for n in (5, 3, 2, 1)]
    label = rng.choice(np.array([0, 1, 255], np.uint8), (2, 9, 9))
    flipped = np.where(label == 255, 255, 1 - label).astype(np.uint8)
    outputs = Outputs(
        logits, None, agnostic, None, np.ones(2, np.float32), tuple(levels[:2]), tuple(levels[2:])
    )
    result = losses(outputs, label, 0.3, level_weight=0.5)

    def term(logits, levels, label):
        own = [cross_entropy(level, label) for level in levels]
        return cross_entropy(logits, label) + 0.5 * np.mean(own)

    np.testing.assert_allclose(result.specific, term(logits, levels[:2], label), rtol=1e-6)
    np.testing.assert_allclose(result.agnostic, term(agnostic, levels[2:], flipped), rtol=1e-6)
    np.testing.assert_allclose(
        result.total, 0.7 * result.specific + 0.3 * result.agnostic, rtol=1e-6
    )


def test_without_the_branch_the_first_term_is_all():
    logits = np.random.default_rng(2).standard_normal((1, 4, 4, 2)).astype(np.float32)
    label = np.ones((1, 4, 4), np.uint8)
    result = losses(Outputs(logits, None), label, 0.5)
    assert result.total == result.specific == cross_entropy(logits, label)


def test_optimizer_and_schedule_agree_with_torch():
    rng = np.random.default_rng(3)
    start = rng.standard_normal(5).astype(np.float32)
    gradients = rng.standard_normal((6, 5)).astype(np.float32)
    steps, base = 6, 0.1
    ours = train_step.optimizer(
        train_step.poly_schedule(base, steps), momentum=0.9, weight_decay=1e-2
    )
    parameters, state = jnp.asarray(start), ours.init(jnp.asarray(start))
    theirs = torch.nn.Parameter(torch.tensor(start))
    sgd = torch.optim.SGD([theirs], lr=base, momentum=0.9, weight_decay=1e-2)
    for number, gradient in enumerate(gradients, start=1):
        updates, state = ours.update(jnp.asarray(gradient), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        sgd.param_groups[0]["lr"] = base * (1 - number / steps) ** 0.9
        theirs.grad = torch.tensor(gradient)
        sgd.step()
        np.testing.assert_allclose(parameters, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("devices", "comparison"),
    [
        (4, "conv"),
        pytest.param(8, "conv", marks=pytest.mark.slow),
        pytest.param(2, "fem", marks=pytest.mark.slow),
    ],
)
def test_several_devices_make_the_same_step(devices, comparison):
    batch = episode_batch()
    results = []
    for count in (1, devices):
        state = jax.device_put(initial(comparison), replicated(data_mesh(count)))
        step = step_of(count, comparison)
        of_steps = []
        for _ in range(2):
            state, losses = step(state, {}, batch, jax.random.key(1))
            of_steps.append(jax.device_get(losses))
        results.append((jax.device_get(state.parameters), of_steps))
    (parameters, losses), (theirs, their_losses) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parameters, theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), losses, their_losses)


def test_a_step_is_a_function_of_its_key_and_number():
    batch = episode_batch()

    def total(key, number):
        state = jax.device_put(initial()._replace(step=jnp.int32(number)), replicated(data_mesh(1)))
        return float(step_of(1)(state, {}, batch, jax.random.key(key))[1].total)

    assert total(0, 0) == total(0, 0)
    assert total(0, 0) != total(0, 1)
    assert total(0, 0) != total(1, 0)


@pytest.mark.parametrize(
    ("at_once", "same_batch", "devices"),
    [(1, 1, 1), pytest.param(1, 0, 2, marks=pytest.mark.slow), (0, 0, 1)],
)
def test_heads_side_by_side_make_the_steps_of_each_alone(at_once, same_batch, devices):
    mesh = data_mesh(devices)
    batches = [episode_batch(seed=0 if same_batch else head) for head in range(2)]
    stacked = jax.tree.map(lambda x: np.stack([x, x]), initial())
    keys, weights = [jax.random.key(head) for head in range(2)], [0.1, 0.5]
    expected = []
    for batch, key, weight in zip(batches, keys, weights, strict=True):
        state = jax.device_put(initial(), replicated(mesh))
        step = step_of(devices, agnostic_weight=weight)
        expected.append(jax.device_get(step(state, {}, batch, key)))
    together = train_step.make_side_by_side_step(
        NETWORKS["conv"], OPTIMIZER, mesh, 1.0, bool(same_batch), bool(at_once)
    )
    given = batches[0] if same_batch else jax.tree.map(lambda *x: np.stack(x), *batches)
    found = jax.device_get(together(stacked, {}, given, jnp.stack(keys), np.float32(weights)))
    for head, one in enumerate(expected):
        ours = jax.tree.map(lambda x, head=head: x[head], found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, one)
