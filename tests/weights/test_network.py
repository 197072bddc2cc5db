"""From a config to a network and its parameters, where the backbone is a vision transformer."""

import numpy as np
import pytest

from apanet_jax.models import backbones
from apanet_jax.models.vit import Variant, ViT
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.network import load_parameters, make_network
from configs import common

TINY = Variant("a tiny ViT", 16, 3, 2, 24, registers=1, table_side=2)
NAME = "dinov2_vits14"


@pytest.fixture
def config(monkeypatch):
    """Settings with a small vision transformer in the place of a large one."""
    row = backbones.spec(NAME)._replace(
        build=lambda dtype: ViT(TINY, (1, 2, 3), dtype=dtype),
        block4_channels=16,
        block3_channels=16,
        high_channels=16,
    )
    monkeypatch.setitem(backbones.BACKBONES, NAME, row)
    config = common.get_config()
    config.backbone.name, config.backbone.weights = NAME, "random"
    config.model.masked_support = False
    config.image_size = 42
    return config


def test_a_transformer_s_positions_are_centres(config):
    network = make_network(config)
    assert network.head.centred
    config.backbone.name, config.model.masked_support = "efficientnet_lite0", True
    assert not make_network(config).head.centred


@pytest.mark.parametrize(
    "settings,says",
    [
        ({"model.masked_support": True}, "dinov2_vits14 has no last block.*masked_support=False"),
        ({"image_size": 41}, "multiples of 14, not 41x41: the nearest are 28x28 or 42x42"),
    ],
)
def test_what_a_transformer_cannot_do_is_refused(config, settings, says):
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=says):
        make_network(config)


def test_positional_directions_are_taken_out_of_high_features_alone(config):
    mesh = data_mesh(1)
    plain = load_parameters(config, make_network(config).head, mesh)
    with config.unlocked():
        config.model.debias = 3
    network = make_network(config)
    debiased = load_parameters(config, network.head, mesh)
    assert debiased[2] == f"{plain[2]} without 3 directions at 42" and debiased[1] == plain[1]
    image = np.random.default_rng(0).integers(0, 256, (1, 42, 42, 3), np.uint8)
    raw, found = (network.features(parameters, image) for parameters in (plain[0], debiased[0]))
    np.testing.assert_array_equal(raw.block4, found.block4)
    unit = raw.block5 / np.linalg.norm(raw.block5, axis=-1, keepdims=True)
    gone = np.linalg.matrix_rank((unit - found.block5).reshape(-1, 16), tol=1e-4)
    assert gone == 3
    config.model.debias = 16
    with pytest.raises(UserError, match="16 positional directions of 16 channels"):
        load_parameters(config, network.head, mesh)
