"""What vision transformers do here besides agreeing with others' (see test_vit_parity)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy.special import ndtr

from apanet_jax.models import backbones
from apanet_jax.models.attention import attention
from apanet_jax.models.dino import VARIANTS, default_blocks
from apanet_jax.models.rotary import rotate, rotations
from apanet_jax.models.vit import Variant, ViT, gelu
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import random_parameters

SMALL = Variant("a small ViT", 32, 3, 2, 64, registers=2, table_side=3)


@functools.cache
def parameters(variant=SMALL):
    image = jax.ShapeDtypeStruct((1, variant.patch, variant.patch, 3), jnp.float32)
    shapes = jax.eval_shape(ViT(variant, (1, 2, 3)).init, jax.random.key(0), image)["params"]
    return random_parameters(shapes)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_features_are_the_blocks_that_were_named():
    module = ViT(SMALL, (3, 1, 2))
    variables, given = {"params": parameters()}, images(1, 28, 42)

    @jax.jit
    def run(variables, given):
        tokens = module.apply(variables, given, (1, 2, 3), method="tokens")
        return module.apply(variables, given), tokens

    features, (first, second, third) = run(variables, given)
    for found, expected in zip(features, (third, first, second), strict=True):
        np.testing.assert_array_equal(found, expected.patches)
    assert first.patches.shape == (1, 2, 3, 32)
    assert first.class_token.shape == (1, 32) and first.registers.shape == (1, 2, 32)
    assert np.abs(first.patches - second.patches).max() > 0.1


def test_half_precision_is_near_and_sees_every_image_for_itself():
    run = jax.jit(ViT(SMALL, (1, 2, 3)).apply)
    given = images(2, 28, 28)
    exact = run({"params": parameters()}, given)
    half = jax.jit(ViT(SMALL, (1, 2, 3), dtype=jnp.bfloat16).apply)({"params": parameters()}, given)
    mirrored = run({"params": parameters()}, given[::-1])
    for whole, rounded, other in zip(exact, half, mirrored, strict=True):
        assert rounded.dtype == jnp.bfloat16
        error = jnp.linalg.norm(rounded.astype(jnp.float32) - whole) / jnp.linalg.norm(whole)
        assert error < 0.05
        np.testing.assert_allclose(other[::-1], whole, atol=1e-5)


@pytest.mark.parametrize("blocks", [(0,), (1, 4), ()])
def test_blocks_that_do_not_exist_are_refused(blocks):
    with pytest.raises(UserError, match="a small ViT has no block.*from 1 to 3"):
        ViT(SMALL, (1, 2, 3)).apply(
            {"params": parameters()}, images(1, 14, 14), blocks, method="tokens"
        )


@pytest.mark.parametrize(
    "size,nearest", [((392, 391), "392x378 or 392x392"), ((5, 5), "are 14x14")]
)
def test_sizes_that_the_patch_does_not_divide_are_refused(size, nearest):
    with pytest.raises(UserError, match=rf"multiples of 14, not \d+x\d+: .*{nearest}") as raised:
        jax.eval_shape(
            ViT(SMALL, (1, 2, 3)).apply, {"params": parameters()}, jnp.zeros((1, *size, 3))
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rotary", [False, True])
def test_programs_are_made_for_every_platform(rotary, dtype):
    platforms = "cpu", "cuda", "tpu"
    variant = SMALL._replace(table_side=0, gated=True) if rotary else SMALL
    run = jax.jit(ViT(variant, (1, 2, 3), dtype=dtype).apply)
    shapes = jax.eval_shape(lambda: parameters(variant))
    given = jax.ShapeDtypeStruct((2, 28, 42, 3), jnp.uint8)
    program = export.export(run, platforms=platforms)({"params": shapes}, given)
    assert program.platforms == platforms
    assert {x.shape for x in program.out_avals} == {(2, 2, 3, 32)}


@pytest.mark.parametrize(
    "implementation,logit_bytes", [("xla", 1 << 20), ("auto", 1 << 20), ("auto", 60)]
)
def test_attention_is_a_softmax_of_products(monkeypatch, implementation, logit_bytes):
    # With 60 bytes a block has 3 of the 5 queries, and the second one is filled up.
    monkeypatch.setattr("apanet_jax.models.attention._LOGIT_BYTES", logit_bytes)
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 5, 3, 4)).astype(np.float32)
    logits = np.einsum("bqhc,bkhc->bhqk", query, key) / 2
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhc->bqhc", weights, value)
    found = attention(query, key, value, implementation)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    half = attention(*(x.astype(jnp.bfloat16) for x in (query, key, value)), implementation)
    assert half.dtype == jnp.bfloat16


def test_gelu_weighs_by_the_normal_distribution():
    x = np.linspace(-8, 8, 101)
    np.testing.assert_allclose(gelu(x.astype(np.float32)), x * ndtr(x), atol=2e-6)
    half = gelu(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), x * ndtr(x), rtol=2e-2, atol=1e-2)


def test_rotated_products_depend_on_the_way_between_two_places_alone():
    rotation = rotations(4, 6, 8, before=1)
    assert rotation.cosine.shape == (1 + 24, 8)
    # The same two vectors everywhere.
    query, key = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    everywhere = np.broadcast_to
    queries = rotate(everywhere(query, (1, 25, 1, 8)), rotation)[0, :, 0]
    keys = rotate(everywhere(key, (1, 25, 1, 8)), rotation)[0, :, 0]
    np.testing.assert_array_equal(queries[0], query)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=-1), np.linalg.norm(query), rtol=1e-5)
    products = np.asarray(queries[1:] @ keys[1:].T).reshape(4, 6, 4, 6)
    for way in ((0, 1), (2, 0), (1, -2)):
        rows, columns = np.mgrid[0:4, 0:6]
        inside = (rows + way[0] < 4) & (0 <= columns + way[1]) & (columns + way[1] < 6)
        found = products[rows, columns, (rows + way[0]) % 4, (columns + way[1]) % 6][inside]
        np.testing.assert_allclose(found, found[0], atol=1e-5)
    assert np.ptp(products) > 0.1


def test_the_published_networks_have_the_published_numbers_of_parameters():
    millions = {
        # The model cards'; the mask token is not counted, and the class token's place is.
        "dinov2_vits14": 22.06,
        "dinov2_vitb14_reg": 86.58,
        "dinov2_vitg14": 1136.48,
        "dinov3_vits16": 21.6,
        "dinov3_vits16plus": 28.7,
        "dinov3_vitl16": 303.1,
        "dinov3_vith16plus": 840.6,
    }
    for name, expected in millions.items():
        variant = VARIANTS[name]
        image = jax.ShapeDtypeStruct((1, variant.patch, variant.patch, 3), jnp.float32)
        # One block stands for all of them.
        single = variant._replace(depth=1)
        shapes = jax.eval_shape(ViT(single, (1, 1, 1)).init, jax.random.key(0), image)["params"]
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        block = sum(leaf.size for leaf in jax.tree.leaves(shapes["block_1"]))
        assert (count + (variant.depth - 1) * block) / 1e6 == pytest.approx(expected, rel=2e-3)


def test_deeper_networks_name_blocks_as_far_along():
    assert default_blocks(VARIANTS["dinov2_vits14"]) == (9, 11, 12)
    assert default_blocks(VARIANTS["dinov2_vitl14"]) == (18, 22, 24)


def test_sizes_are_checked_by_name():
    backbones.check_size("dinov2_vits14", 392)
    backbones.check_size("resnet50", 473)
    with pytest.raises(UserError, match="ViT|dinov3_vits16 takes.*multiples of 16.*384x384 or 400"):
        backbones.check_size("dinov3_vits16", 393)
