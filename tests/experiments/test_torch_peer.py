"""The benchmarks' PyTorch network computes what ours computes, of the same parameters."""

import functools
import itertools

import jax
import numpy as np
import pytest
import torch

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.programs import Programs
from apanet_jax.training import train_step
from apanet_jax.weights.head import head_parameters
from apanet_jax.weights.load import parameter_shapes
from experiments import harness
from experiments.speed import torch_peer, training_benchmark
from experiments.speed.torch_peer import STEM, TorchPeer, cosine_kmeans
from tests.networks import relative_error, tensors_of
from tests.small_backbone import CHANNELS
from tests.small_backbone import NAME as SMALL

SIZE, RATE = 33, 0.1
OPTIMIZER = train_step.optimizer(lambda count: RATE)
NO_DROPOUT = {"reduction_dropout": 0.0, "comparison_dropout": 0.0}


class TheSameInTorch(torch.nn.Module):
    def __init__(self, _name):
        super().__init__()
        convolutions = (
            torch.nn.Conv2d(3, CHANNELS[0], 5, 8, 2),
            *(torch.nn.Conv2d(*channels, 1) for channels in itertools.pairwise(CHANNELS)),
        )
        self.features = torch.nn.Sequential(
            *(layer for one in convolutions for layer in (one, torch.nn.ReLU()))
        )


@pytest.fixture(scope="module", autouse=True)
def small_in_torch(small_backbone):
    """The small backbone has a peer too."""
    make_vgg = torch_peer.ceil_mode_vgg
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(torch_peer.VGG_ENDS, SMALL, (2, 4, 6))
        patch.setattr(
            torch_peer,
            "ceil_mode_vgg",
            lambda name: TheSameInTorch(name) if name == SMALL else make_vgg(name),
        )
        yield


def episodes(batch=2, shot=1, seed=0):
    return harness.noise_episodes(batch, shot, SIZE, seed)


def pair(name, *, masked_support=True, **settings):
    """Returns our network, a new state, the backbone's parameters, and the peer."""
    head = APANet(channels=8, **settings)
    network = Network(backbones.create(name, stem=STEM), head, masked_support)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape), parameter_shapes(name, STEM))
    key = jax.random.key(1)
    state = train_step.create_state(network, zeros, SIZE, OPTIMIZER, key, Programs())
    peer, of_backbone = TorchPeer.like(network, state.parameters, backbone_name=name, seed=0)
    return network, state, of_backbone, peer


@pytest.mark.parametrize(
    ("name", "shot", "masked_support"),
    [
        (SMALL, 2, True),
        pytest.param(SMALL, 1, False, marks=pytest.mark.slow),
        pytest.param("resnet50", 1, True, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", 1, True, marks=pytest.mark.slow),
    ],
)
def test_logits_agree(name, shot, masked_support):
    network, state, of_backbone, peer = pair(name, masked_support=masked_support)
    batch = episodes(shot=shot)
    with torch.no_grad():
        expected = peer.eval().logits(batch).numpy()
    ours = jax.jit(network)(state.parameters, of_backbone, batch).logits
    assert relative_error(ours, expected) < 1e-3


@pytest.mark.parametrize("num_clusters", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_loss_and_step_agree(num_clusters):
    """With one cluster nothing is left to chance: clustering and the negative are certain."""
    network, state, of_backbone, peer = pair(SMALL, num_clusters=num_clusters, **NO_DROPOUT)
    batch = episodes(seed=1)
    before = jax.device_get(state.parameters)
    sgd = peer.sgd(RATE)
    expected = peer.loss(batch, 0.3)
    expected.backward()
    sgd.step()
    step = train_step.make_step(network, OPTIMIZER, 0.3, data_mesh(1))
    state, losses = step(state, of_backbone, batch, jax.random.key(0))
    np.testing.assert_allclose(losses.total, expected.item(), rtol=1e-4)
    theirs = head_parameters(tensors_of(peer.head), network.head, SMALL)
    moved = jax.tree.map(np.subtract, jax.device_get(state.parameters), before)
    moved_there = jax.tree.map(np.subtract, theirs, before)
    for ours, reference in zip(*map(jax.tree.leaves, (moved, moved_there)), strict=True):
        assert np.abs(reference).max() > 1e-5
        assert relative_error(ours, reference) < 1e-2


def test_its_clusters_are_groups_that_are_far_from_each_other():
    rng = np.random.default_rng(0)
    directions = 10 * np.eye(3, 16, dtype=np.float32)
    group = rng.integers(0, 3, (2, 6, 7))
    features = torch.tensor(directions[group] + rng.standard_normal((2, 6, 7, 16), np.float32))
    known = torch.ones(2, 6, 7, dtype=torch.bool)
    found = cosine_kmeans(features.permute(0, 3, 1, 2), known, 3, 10).numpy()
    for theirs, true in zip(found, group, strict=True):
        assert len(set(zip(theirs.flat, true.flat, strict=True))) == 3


def test_settings_that_it_does_not_know_are_named():
    network = Network(None, APANet(comparison="fem"))
    with pytest.raises(UserError, match="comparison='conv' only, not 'fem'"):
        TorchPeer.like(network, {}, backbone_name="resnet50", seed=0)
    with pytest.raises(UserError, match="no PyTorch peer of 'efficientnet_lite0'"):
        TorchPeer.like(Network(None, APANet()), {}, backbone_name="efficientnet_lite0", seed=0)


@pytest.mark.slow
def test_the_training_benchmark_times_both(monkeypatch):
    monkeypatch.setattr(training_benchmark, "APANet", functools.partial(APANet, channels=8))
    names = ("apanet_jax", "pytorch")
    contestants = [
        training_benchmark.contestant(SMALL, name, clusters, SIZE)
        for clusters in (0, 3)
        for name in names
    ]
    settings = {"backbone": SMALL, "size": SIZE, "batch": 1, "shot": 1}
    rows = [settings | row for row in training_benchmark.measure(settings, contestants, 1)]
    found = [(row["implementation"], row["num_clusters"]) for row in rows]
    assert found == [(name, clusters) for clusters in (0, 3) for name in names]
    assert all(len(row["step_seconds"]) == 1 and row["last_loss"] > 0 for row in rows)
    # Without clusters nothing is drawn but dropout, so the losses are near to each other.
    assert rows[0]["last_loss"] == pytest.approx(rows[1]["last_loss"], rel=0.5)
    table = training_benchmark.markdown(rows)
    assert table.count("1 x 33x33, 1 shot") == 4 and table.count("| 1.00 |") == 2
