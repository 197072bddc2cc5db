"""The programs of training and evaluation lower for GPUs and TPUs, from a machine without any."""

import jax
import jax.numpy as jnp
import pytest

from apanet_jax.evaluation.comparing import compiled_pairs
from apanet_jax.evaluation.embedding import _compiled_embedding, _compiled_supports
from apanet_jax.evaluation.protocol import score
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.programs import Programs
from apanet_jax.training import train_step

SIZE = 65
BACKBONES = [
    "efficientnet_lite0",
    pytest.param("resnet50", marks=pytest.mark.slow),
    pytest.param("resnet101", marks=pytest.mark.slow),
    pytest.param("vgg16", marks=pytest.mark.slow),
]
HEADS = {
    "conv": APANet(channels=8),
    "priors": APANet(
        channels=8,
        priors=("high", "middle", "contrast", "density_ratio"),
        cluster_features="middle",
    ),
    "fem": APANet(channels=8, comparison="fem", pyramid_bins=(5, 3)),
}


def shapes(network, batch=2, shot=1):
    """Returns the shapes of a backbone's parameters, a head's state and an episode batch."""

    def pixels(*leading, channels=()):
        return jax.ShapeDtypeStruct((batch, *leading, SIZE, SIZE, *channels), jnp.uint8)

    episode = {
        "query_image": pixels(channels=(3,)),
        "query_label": pixels(),
        "support_images": pixels(shot, channels=(3,)),
        "support_labels": pixels(shot),
        "original_label": pixels(),
        "original_side": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

    def backbone():
        images = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8)
        return network.backbone.init(jax.random.key(0), images)["params"]

    backbone_parameters = jax.eval_shape(backbone)
    transformation = train_step.optimizer(train_step.poly_schedule(0.1, 10))

    def state(parameters):
        key = jax.random.key(0)
        return train_step.create_state(network, parameters, SIZE, transformation, key, Programs())

    return backbone_parameters, jax.eval_shape(state, backbone_parameters), episode, transformation


PLATFORMS = ("cuda", "tpu")


def lowered(function, *arguments):
    return jax.export.export(function, platforms=PLATFORMS)(*arguments)


@pytest.mark.parametrize("name", BACKBONES)
def test_both_steps_lower_with_every_backbone(name):
    _both_steps_lower(Network(backbones.create(name), HEADS["conv"]))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "dtype"), [("priors", "float32"), ("fem", "bfloat16")])
def test_both_steps_lower_with_every_head(small_backbone, head, dtype):
    backbone = backbones.create("small", dtype=jnp.dtype(dtype))
    _both_steps_lower(Network(backbone, HEADS[head], masked_support=False))


def _both_steps_lower(network):
    backbone_parameters, state, episode, transformation = shapes(network)
    mesh = data_mesh(2)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = train_step.make_step(network, transformation, 0.5, mesh)
    program = lowered(step, state, backbone_parameters, episode, key)
    assert program.nr_devices == 2 and program.platforms == PLATFORMS

    @jax.jit
    def count(parameters, backbone_parameters, batch):
        logits = network(parameters, backbone_parameters, batch).logits
        found = logits[..., 1] - logits[..., 0]
        return score(found, batch["original_label"], batch["original_side"])

    program = lowered(count, state.parameters, backbone_parameters, episode)
    assert [x.shape for x in program.out_avals] == [(2, 2), (2, 2)]


@pytest.mark.slow
def test_the_programs_of_kept_features_lower(small_backbone):
    head, mesh, pairs, place, positions = HEADS["priors"], data_mesh(2), 4, 2, 64

    def rows(**shapes):
        one = {name: jax.ShapeDtypeStruct((2, *x), jnp.float32) for name, x in shapes.items()}
        return (one,) * place

    head = head.clone(block4_channels=12, foreground_prototypes=2)
    queries = rows(high=(9, 9, 16), middle=(9, 9, 20))
    support = {"high": (positions, 16), "middle": (positions, 20), "contrast": (4, 20)}
    support |= {"block4": (81, 12), "shares": (2, 81), "means": (2, 20)}
    places = jax.ShapeDtypeStruct((pairs,), jnp.int32)
    program = lowered(compiled_pairs(head, mesh), queries, places, rows(**support))
    assert {x.shape for x in program.out_avals} == {(2, 9, 9, 4), (2, 9, 9, 2)}
    assert program.nr_devices == 2 and program.platforms == PLATFORMS
    labels = jax.ShapeDtypeStruct((pairs, SIZE, SIZE), jnp.uint8)
    backbone = backbones.create("small")
    network = Network(backbone, head)
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
    parameters = jax.eval_shape(backbone.init, jax.random.key(0), image)["params"]
    images = jax.ShapeDtypeStruct((pairs, SIZE, SIZE, 3), jnp.uint8)
    embed = _compiled_embedding(network, mesh, "bfloat16", True)
    found, _ = jax.eval_shape(embed, parameters, {"image": images})
    assert lowered(embed, parameters, {"image": images}).platforms == PLATFORMS
    supports = _compiled_supports(network, mesh, "bfloat16")
    assert lowered(supports, parameters, found, labels).platforms == PLATFORMS
