"""Features for whoever wants nothing but a pretrained backbone."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import apanet_jax
from apanet_jax.models import backbones, dino
from apanet_jax.models.vit import Variant, ViT
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import features
from apanet_jax.weights.load import load_backbone
from tests.weights import test_vit_names

TINY = Variant("a tiny ViT", 16, 3, 2, 24, registers=1, table_side=2)


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """A small vision transformer in the place of a large one."""
    row = backbones.spec("dinov2_vits14")._replace(
        build=lambda dtype: ViT(TINY, (1, 2, 3), dtype=dtype)
    )
    monkeypatch.setitem(backbones.BACKBONES, "dinov2_vits14", row)
    return apanet_jax.load_backbone("dinov2_vits14", "random", batch=2)


def test_any_number_of_images_goes_through_one_program(tiny):
    images = random_images(3, 28, 42)
    before = features._apply._cache_size()
    third, first = tiny.features(images, blocks=(3, 1))
    assert first.shape == third.shape == (3, 2, 3, 16) and first.dtype == np.float32
    one = tiny.features(images[2:], blocks=[3, 1])
    assert features._apply._cache_size() == before + 1
    np.testing.assert_array_equal(one[1], first[2:])
    maps = jax.jit(lambda x: tiny.module.apply({"params": x}, images, (1,), method="maps"))
    whole = maps(tiny.parameters)[0]
    np.testing.assert_allclose(first, whole, atol=1e-5)


def test_a_transformer_s_other_tokens_can_be_asked_for(tiny):
    images = random_images(1, 28, 28)
    (last,) = tiny.tokens(images, (3,))
    assert last.class_token.shape == (1, 16) and last.registers.shape == (1, 1, 16)
    np.testing.assert_allclose(last.patches.mean(-1), 0, atol=0.1)
    (raw,) = tiny.tokens(images, (3,), final_norm=False)
    assert np.abs(raw.patches - last.patches).max() > 0.1


def test_a_convolutional_network_names_the_paper_s_blocks():
    backbone = apanet_jax.load_backbone("efficientnet_lite0", "pip")
    images = random_images(1, 33, 49)
    maps = backbone.features(images, blocks=(2, 3, 4, 5))
    assert [x.shape for x in maps] == [
        (1, 9, 13, 24),
        (1, 5, 7, 40),
        (1, 5, 7, 112),
        (1, 5, 7, 320),
    ]
    parameters = {"params": load_backbone("efficientnet_lite0", "pip")}
    expected = jax.jit(backbone.module.apply)(parameters, images)
    for ours, reference in zip(maps[1:], expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)
    assert backbone.origin.source == "pip" and len(backbone.fingerprint) == 64
    with pytest.raises(UserError, match="no block 6.*from 2 to 5"):
        backbone.features(images, blocks=(6,))
    with pytest.raises(UserError, match="efficientnet_lite0 has no tokens"):
        backbone.tokens(images, (5,))


@pytest.mark.parametrize(
    "images,says",
    [
        (np.zeros((2, 28, 28, 3), np.float32), "float32 .2, 28, 28, 3.: expected uint8"),
        (np.zeros((28, 28, 3), np.uint8), "expected uint8 .batch, height, width, 3."),
        (np.zeros((0, 28, 28, 3), np.uint8), "uint8 .0, 28, 28, 3."),
        (np.zeros((1, 30, 28, 3), np.uint8), "multiples of 14, not 30x28.*28x28 or 42x28"),
    ],
)
def test_images_that_cannot_be_taken_are_refused(tiny, images, says):
    with pytest.raises(UserError, match=says) as raised:
        tiny.features(images, blocks=(1,))
    assert "\n" not in str(raised.value)


WRONG_FILES = {
    "missing blocks": r"not the weights of DINOv2 .*missing encoder\.layer\.1\.",
    "another width": r"shape \[8, 3, 14, 14\], expected \[16, 3, 14, 14\]",
    "a ResNet's": r"not the weights of DINOv2 .*unexpected .*conv1\.weight",
    "a login page": "is a web page, perhaps one that asks for a login",
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_weights_are_refused_in_one_line(monkeypatch, tmp_path, kind):
    path = tmp_path / "model.safetensors"
    variant, found = test_vit_names.small("dinov2_vits14"), test_vit_names.tensors("hf")
    if kind == "missing blocks":
        found = {name: x for name, x in found.items() if not name.startswith("encoder.layer.1.")}
    elif kind == "another width":
        variant = variant._replace(width=16)
    elif kind == "a ResNet's":
        found = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
        found |= {"layer1.0.bn1.weight": np.zeros(64, np.float32)}
    save_file(found, path)
    if kind == "a login page":
        path.write_text("<!DOCTYPE html><title>Sign in</title>")
    row = backbones.spec("dinov2_vits14")._replace(build=lambda dtype: ViT(variant, (1, 1, 2)))
    monkeypatch.setitem(backbones.BACKBONES, "dinov2_vits14", row)
    monkeypatch.setitem(dino.VARIANTS, "dinov2_vits14", variant)
    with pytest.raises(UserError, match=WRONG_FILES[kind]) as raised:
        apanet_jax.load_backbone("dinov2_vits14", str(path))
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


@pytest.mark.parametrize(
    "settings,says",
    [
        ({"dtype": "float16"}, "dtype 'float16': expected float32 or bfloat16"),
        ({"dtype": "half an hour"}, "dtype 'half an hour'"),
        ({"batch": 0}, "batch 0: expected at least 1"),
        ({"weights": "nowhere.pth"}, "no weight file nowhere.pth"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        apanet_jax.load_backbone("efficientnet_lite0", **settings)


def test_blocks_are_as_far_along_in_every_depth():
    for name, variant in dino.VARIANTS.items():
        assert backbones.spec(name).patch == variant.patch
        assert dino.default_blocks(variant)[-1] == variant.depth
