"""From a config to a network and its parameters, where the backbone is a vision transformer."""

import dataclasses

import jax
import numpy as np
import pytest

from apanet_jax.config.definitions import BackboneSettings, ModelSettings
from apanet_jax.config.settings import default_config, typed, with_options
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.vit import Variant, ViT
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.network import NetworkLoader, make_network

TINY = Variant("a tiny ViT", 16, 3, 2, 24, registers=1, table_side=2)
NAME = "dinov2_vits14"


@pytest.fixture
def settings(monkeypatch):
    """Settings with a small vision transformer in the place of a large one."""
    row = backbones.spec(NAME)._replace(
        build=lambda dtype: ViT(TINY, (1, 2, 3), dtype=dtype),
        block4_channels=16,
        block3_channels=16,
        high_channels=16,
    )
    monkeypatch.setitem(backbones.BACKBONES, NAME, row)
    config = with_options(default_config(), f"backbone={NAME},weights=random,image_size=42")
    return typed(config)


def test_a_transformer_s_positions_are_centres(settings):
    assert make_network(settings.backbone, settings.model).head.centred
    lite = BackboneSettings("efficientnet_lite0")
    assert not make_network(lite, ModelSettings()).head.centred


def test_a_transformer_has_no_last_block_to_mask_before(settings):
    masked = dataclasses.replace(settings.model, masked_support=True)
    with pytest.raises(UserError, match="dinov2_vits14 has no last block.*masked_support=False"):
        make_network(settings.backbone, masked)


def test_positional_directions_are_taken_out_of_high_features_alone(settings):
    def load(**model):
        changed = dataclasses.replace(settings.model, **model)
        return NetworkLoader().load(settings.backbone, changed, data_mesh(1), image_size=42)

    plain, debiased = load(), load(debias=3)
    assert debiased.fingerprint == f"{plain.fingerprint} without 3 directions at 42"
    assert debiased.origin == plain.origin
    image = np.random.default_rng(0).integers(0, 256, (1, 42, 42, 3), np.uint8)
    raw, found = (
        jax.jit(x.network.features)(x.backbone_parameters, image) for x in (plain, debiased)
    )
    np.testing.assert_array_equal(raw.block4, found.block4)
    unit = raw.block5 / np.linalg.norm(raw.block5, axis=-1, keepdims=True)
    gone = np.linalg.matrix_rank((unit - found.block5).reshape(-1, 16), tol=1e-4)
    assert gone == 3
    with pytest.raises(UserError, match="16 positional directions of 16 channels"):
        load(debias=16)


def test_a_head_s_own_defaults_are_those_of_the_settings():
    settings, head = ModelSettings(), APANet()
    # The settings' () stands for the levels of the data set.
    shared = {field.name for field in dataclasses.fields(settings)} - {"pyramid_bins"}
    for name in shared & {field.name for field in dataclasses.fields(head)}:
        assert getattr(settings, name) == getattr(head, name), name
