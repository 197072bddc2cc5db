"""The whole network against what PFENet computes: backbone, head and losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.models import backbones
from apanet_jax.models.network import Network
from apanet_jax.models.resize import resize_bilinear
from apanet_jax.training.losses import losses
from apanet_jax.weights import pfenet
from tests import reference

TOLERANCE = {jnp.float32: 1e-3, jnp.bfloat16: 0.1}
"""Largest relative deviation; bfloat16 is that of the backbone, the head computes in float32."""

QUICK_SIDE = 300

each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.path.stem, marks=[pytest.mark.slow] * (case.side > QUICK_SIDE))
        for case in reference.cases()
    ],
)


@functools.lru_cache(maxsize=1)
def parameters(backbone):
    return pfenet.convert_checkpoint(reference.seeded_tensors(backbone), backbone, pfenet.head())


def computed(case, arrays, dtype):
    """Returns the arrays of a case, under their names there, as this network computes them."""
    backbone = backbones.create(case.backbone, dtype=dtype)
    network = Network(backbone, pfenet.head())

    @jax.jit
    def run(backbone_parameters, head_parameters, batch):
        features = backbone.apply({"params": backbone_parameters}, batch["query_image"])
        query, support = network.embed_episode(backbone_parameters, batch)
        outputs, state = network.head.apply(
            {"params": head_parameters},
            query,
            support,
            batch["support_labels"],
            batch["query_label"],
            mutable=["intermediates"],
        )
        label = batch["query_label"]
        main = losses(outputs, label, 0.0, level_weight=0.0).specific
        inside = state["intermediates"]
        maps = {
            "layer2": features.block3,
            "layer3": features.block4,
            "layer4": features.block5,
            "down_query": inside["reduced_query"][0],
        }
        return {name: _first_channels(x) for name, x in maps.items()} | {
            "prototype": inside["prototypes"][0][0, 0],
            # As the first pyramid level receives it.
            "prior": resize_bilinear(outputs.prior, arrays["prior"].shape)[0, :, :, 0],
            "logits": jnp.moveaxis(resize_bilinear(outputs.logits, label.shape[1:])[0], -1, 0),
            "main_loss": main,
            "aux_loss": losses(outputs, label, 0.0).specific - main,
        }

    names = ("query_image", "query_label", "support_images", "support_labels")
    batch = {name: jnp.asarray(arrays[name])[None] for name in names}
    return jax.device_get(run(*parameters(case.backbone), batch))


def _first_channels(x):
    return jnp.moveaxis(x[0, :, :, :8], -1, 0).astype(jnp.float32)


def deviations(case, dtype):
    """Returns by name the largest deviation, over the largest magnitude of the expected array."""
    with np.load(case.path) as file:
        arrays = dict(file)
    found = computed(case, arrays, dtype)
    return {
        name: float(np.abs(value - arrays[name]).max() / np.abs(arrays[name]).max())
        for name, value in found.items()
    }


@reference.beside_the_project
def test_there_are_cases():
    assert reference.cases()


@reference.beside_the_project
@each_case
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: dtype.__name__)
def test_agrees_with_pfenet(case, dtype):
    found = deviations(case, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found
