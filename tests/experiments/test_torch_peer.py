"""The benchmarks' PyTorch network computes what ours computes, of the same parameters."""

import json

import jax
import numpy as np
import pytest
import torch

from apanet_jax.data import records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.training import train_step
from apanet_jax.weights.head import head_parameters
from apanet_jax.weights.load import parameter_shapes
from experiments.speed.torch_peer import STEM, TorchPeer, cosine_kmeans
from tests import trees
from tests.networks import relative_error, tensors_of
from tests.scripts import run_script

SIZE, RATE = 65, 0.1
OPTIMIZER = train_step.optimizer(lambda count: RATE)
NO_DROPOUT = {"reduction_dropout": 0.0, "comparison_dropout": 0.0}


@pytest.fixture(scope="module", autouse=True)
def quick_compiling():
    """Nearly all the time would go into optimising programs that run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def picture_batch(batch=2, shot=1, seed=0):
    rng = np.random.default_rng(seed)

    def pictures(*leading):
        return rng.integers(0, 256, (*leading, SIZE, SIZE, 3), np.uint8)

    def labels(*leading):
        blocks = rng.choice(np.array([0, 1, 255], np.uint8), (*leading, 5, 5), p=[0.5, 0.4, 0.1])
        return np.ascontiguousarray(blocks.repeat(13, -2).repeat(13, -1))

    return {
        "query_image": pictures(batch),
        "query_label": labels(batch),
        "support_images": pictures(batch, shot),
        "support_labels": labels(batch, shot),
    }


def pair(name, *, masked_support=True, **settings):
    """Returns our network, a new state, the backbone's parameters, and the peer."""
    head = APANet(channels=8, **settings)
    network = Network(backbones.create(name, stem=STEM), head, masked_support)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape), parameter_shapes(name, STEM))
    state = train_step.create_state(network, zeros, SIZE, OPTIMIZER, jax.random.key(1))
    peer, of_backbone = TorchPeer.like(network, state.parameters, backbone_name=name, seed=0)
    return network, state, of_backbone, peer


@pytest.mark.parametrize(
    ("name", "shot", "masked_support"),
    [
        ("resnet50", 2, True),
        pytest.param("resnet50", 1, True, marks=pytest.mark.slow),
        pytest.param("vgg16", 2, False, marks=pytest.mark.slow),
        pytest.param("resnet101", 2, False, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", 1, True, marks=pytest.mark.slow),
    ],
)
def test_logits_agree(name, shot, masked_support):
    network, state, of_backbone, peer = pair(name, masked_support=masked_support)
    batch = picture_batch(shot=shot)
    with torch.no_grad():
        expected = peer.eval().logits(batch).numpy()
    ours = jax.jit(network)(state.parameters, of_backbone, batch).logits
    assert relative_error(ours, expected) < 1e-3


@pytest.mark.parametrize("num_clusters", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_loss_and_step_agree(num_clusters):
    """With one cluster nothing is left to chance: clustering and the negative are certain."""
    network, state, of_backbone, peer = pair("resnet50", num_clusters=num_clusters, **NO_DROPOUT)
    batch = picture_batch(seed=1)
    before = jax.device_get(state.parameters)
    sgd = peer.sgd(RATE)
    expected = peer.loss(batch, 0.3)
    expected.backward()
    sgd.step()
    step = train_step.make_step(network, OPTIMIZER, 0.3, data_mesh(1))
    state, losses = step(state, of_backbone, batch, jax.random.key(0))
    np.testing.assert_allclose(losses.total, expected.item(), rtol=1e-4)
    theirs = head_parameters(tensors_of(peer.head), network.head, "resnet50")
    moved = jax.tree.map(np.subtract, jax.device_get(state.parameters), before)
    moved_there = jax.tree.map(np.subtract, theirs, before)
    for ours, reference in zip(*map(jax.tree.leaves, (moved, moved_there)), strict=True):
        assert np.abs(reference).max() > 1e-5
        assert relative_error(ours, reference) < 1e-2


def test_its_clusters_are_groups_that_lie_apart():
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
def test_the_training_benchmark_writes_rows_and_a_table(tmp_path):
    done = run_script(
        "training_benchmark.py",
        "--size=65",
        "--batch=1",
        "--steps=1",
        "--only=apanet_jax,pytorch",
        f"--json={tmp_path / 'rows.json'}",
        f"--markdown={tmp_path / 'page.md'}",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["implementation"], row["num_clusters"]) for row in rows] == [
        ("apanet_jax", 0),
        ("pytorch", 0),
        ("apanet_jax", 3),
        ("pytorch", 3),
    ]
    assert rows[0]["last_loss"] > 0 and (tmp_path / "page.md").read_text() in done.stdout


@pytest.mark.slow
def test_the_pipeline_benchmark_writes_rows_and_a_table(tmp_path):
    source = trees.folder_tree(tmp_path / "mine")
    records.write(FolderSource(source), tmp_path / "records")
    done = run_script(
        "pipeline_benchmark.py",
        f"--source={source}",
        f"--records={tmp_path / 'records'}",
        "--size=48",
        "--longer_side=48",
        "--min_area=50",
        "--workers=1",
        "--batches=2",
        "--repetitions=1",
        f"--json={tmp_path / 'rows.json'}",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 4 and all(row["episodes_per_core_second"][0] > 0 for row in rows)
