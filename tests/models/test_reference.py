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
from tests import reference_cases

TOLERANCE = {jnp.float32: 1e-4, jnp.bfloat16: 0.1}
"""Largest deviation, over the largest magnitude of the expected array. bfloat16 is that of the
backbone, the head computes in float32."""


def _each_case():
    for case in reference_cases.cases():
        for dtype in TOLERANCE:
            yield pytest.param(case, dtype, id=f"{case.name}-{dtype.__name__}")


@functools.lru_cache(maxsize=1)
def parameters(backbone):
    return pfenet.convert_checkpoint(
        reference_cases.seeded_tensors(backbone), backbone, pfenet.head()
    )


def computed(case, arrays, dtype):
    """Returns the arrays of a case, under their names there, as this network computes them."""
    backbone = backbones.create(case.backbone, dtype=dtype)
    network = Network(backbone, pfenet.head())

    @jax.jit
    def run(backbone_parameters, head_parameters, batch):
        # What `embed_episode` asks for too, so that it is compiled and computed once.
        images = jnp.concatenate([batch["query_image"], batch["support_images"][0]])
        features = network.features(backbone_parameters, images)
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


def test_there_are_cases():
    assert len(reference_cases.cases()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("case", "dtype"), _each_case())
def test_agrees_with_pfenet(case, dtype):
    found = deviations(case, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found
