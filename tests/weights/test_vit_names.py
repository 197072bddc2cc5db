"""The names of vision transformers' weights, of every file that there is, and wrong files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from apanet_jax.models.dino import VARIANTS
from apanet_jax.models.vit import ViT
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.mapping import convert
from apanet_jax.weights.vit import table

WIDTH, HIDDEN = 8, 12


def small(name):
    return VARIANTS[name]._replace(width=WIDTH, depth=2, heads=2, hidden=HIDDEN)


@functools.cache
def shapes(variant):
    image = jnp.zeros((1, variant.patch, variant.patch, 3))
    return jax.eval_shape(ViT(variant, (1, 1, 2)).init, jax.random.key(0), image)["params"]


def listed(common, block, patch):
    """Names and shapes of a file with two blocks: `common` ones, and those of each block."""
    names = dict(common) | {f"{patch}.weight": None, f"{patch}.bias": (WIDTH,)}
    for number in range(2):
        names |= {name.format(number): shape for name, shape in block.items()}
    return names


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def attention_and_mlp(start, parts):
    """The names of a block: those that every file has, and (name, inputs, outputs) of `parts`."""
    names = norm(f"{start}.norm1") | norm(f"{start}.norm2")
    for name, inputs, outputs in parts:
        names |= linear(f"{start}.{name}", inputs, outputs)
    return names


CLASS, FOUR = {"cls_token": (1, 1, WIDTH)}, (1, 4, WIDTH)
POSITIONS = (1, 1 + 37 * 37, WIDTH)
FUSED = [("attn.qkv", WIDTH, 3 * WIDTH), ("attn.proj", WIDTH, WIDTH)]
PLAIN = [("mlp.fc1", WIDTH, HIDDEN), ("mlp.fc2", HIDDEN, WIDTH)]
PACKED = [("mlp.w12", WIDTH, 2 * HIDDEN), ("mlp.w3", HIDDEN, WIDTH)]
THREE = [("mlp.w1", WIDTH, HIDDEN), ("mlp.w2", WIDTH, HIDDEN), ("mlp.w3", HIDDEN, WIDTH)]
GAMMAS = {f"blocks.{{}}.ls{i}.gamma": (WIDTH,) for i in (1, 2)}
MASK = {"mask_token": (1, WIDTH)}
BIAS_MASK = {"blocks.{}.attn.qkv.bias_mask": (3 * WIDTH,)}
HF_SCALES = {f"layer_scale{i}.lambda1": (WIDTH,) for i in (1, 2)}


def of_blocks(parts, more):
    return attention_and_mlp("blocks.{}", parts) | more


def timm3(mlp, biased=False):
    qkv = {"blocks.{}.attn.qkv.weight": (3 * WIDTH, WIDTH)}
    gammas = {f"blocks.{{}}.gamma_{i}": (WIDTH,) for i in (1, 2)}
    biases = {f"blocks.{{}}.attn.{i}_bias": (WIDTH,) for i in ("qv" if biased else "")}
    return of_blocks([FUSED[1], *mlp], qkv | gammas | biases)


def hugging_face3(mlp):
    names = attention_and_mlp("layer.{}", [("attention.o_proj", WIDTH, WIDTH), *mlp])
    for part in "qkv":
        names |= linear(f"layer.{{}}.attention.{part}_proj", WIDTH, WIDTH)
    del names["layer.{}.attention.k_proj.bias"]
    return names | {f"layer.{{}}.{name}": shape for name, shape in HF_SCALES.items()}


def hugging_face2(mlp):
    parts = [(f"attention.attention.{name}", WIDTH, WIDTH) for name in ("query", "key", "value")]
    parts += [("attention.output.dense", WIDTH, WIDTH), *mlp]
    scales = {f"encoder.layer.{{}}.{name}": shape for name, shape in HF_SCALES.items()}
    return attention_and_mlp("encoder.layer.{}", parts) | scales


HF2 = {
    "embeddings.cls_token": (1, 1, WIDTH),
    "embeddings.mask_token": (1, WIDTH),
    "embeddings.position_embeddings": POSITIONS,
} | norm("layernorm")
HF3 = {
    "embeddings.cls_token": (1, 1, WIDTH),
    "embeddings.mask_token": (1, 1, WIDTH),
    "embeddings.register_tokens": FOUR,
} | norm("norm")
HF2_PATCH, HF3_PATCH = "embeddings.patch_embeddings.projection", "embeddings.patch_embeddings"
OLD = CLASS | {"pos_embed": POSITIONS} | norm("norm")
NEW = CLASS | {"storage_tokens": FOUR, "rope_embed.periods": (2,)} | MASK | norm("norm")
TIMM_NEW = CLASS | {"reg_token": FOUR} | norm("norm")
FACEBOOK = "patch_embed.proj"
# Each is written down from the files' own lists, not made of the table that is tested.
FILES = {
    "original": ("dinov2_vits14", listed(OLD | MASK, of_blocks(FUSED + PLAIN, GAMMAS), FACEBOOK)),
    "original, registers, swiglu": (
        "dinov2_vitg14_reg",
        listed(OLD | MASK | {"register_tokens": FOUR}, of_blocks(FUSED + PACKED, GAMMAS), FACEBOOK),
    ),
    "original, v3": (
        "dinov3_vitl16",
        listed(
            NEW | norm("local_cls_norm"), of_blocks(FUSED + PLAIN, GAMMAS | BIAS_MASK), FACEBOOK
        ),
    ),
    "original, v3, swiglu": (
        "dinov3_vith16plus",
        listed(NEW, of_blocks(FUSED + THREE, GAMMAS | BIAS_MASK), FACEBOOK),
    ),
    "timm": ("dinov2_vits14", listed(OLD, of_blocks(FUSED + PLAIN, GAMMAS), FACEBOOK)),
    "timm, registers, swiglu": (
        "dinov2_vitg14_reg",
        listed(
            OLD | {"pos_embed": (1, 37 * 37, WIDTH), "reg_token": FOUR},
            of_blocks(FUSED + [("mlp.fc1", WIDTH, 2 * HIDDEN), ("mlp.fc2", HIDDEN, WIDTH)], GAMMAS),
            FACEBOOK,
        ),
    ),
    "timm, v3": ("dinov3_vits16", listed(TIMM_NEW, timm3(PLAIN), FACEBOOK)),
    "timm, v3, biases, swiglu": (
        "dinov3_vits16plus",
        listed(
            TIMM_NEW,
            timm3(
                [
                    ("mlp.fc1_g", WIDTH, HIDDEN),
                    ("mlp.fc1_x", WIDTH, HIDDEN),
                    ("mlp.fc2", HIDDEN, WIDTH),
                ],
                biased=True,
            ),
            FACEBOOK,
        ),
    ),
    "hf": ("dinov2_vits14", listed(HF2, hugging_face2(PLAIN), HF2_PATCH)),
    "hf, registers, swiglu": (
        "dinov2_vitg14_reg",
        listed(
            HF2 | {"embeddings.register_tokens": FOUR},
            hugging_face2(
                [("mlp.weights_in", WIDTH, 2 * HIDDEN), ("mlp.weights_out", HIDDEN, WIDTH)]
            ),
            HF2_PATCH,
        ),
    ),
    "hf, v3": (
        "dinov3_vits16",
        listed(
            HF3,
            hugging_face3([("mlp.up_proj", WIDTH, HIDDEN), ("mlp.down_proj", HIDDEN, WIDTH)]),
            HF3_PATCH,
        ),
    ),
    "hf, v3, swiglu": (
        "dinov3_vith16plus",
        listed(
            HF3,
            hugging_face3(
                [
                    ("mlp.gate_proj", WIDTH, HIDDEN),
                    ("mlp.up_proj", WIDTH, HIDDEN),
                    ("mlp.down_proj", HIDDEN, WIDTH),
                ]
            ),
            HF3_PATCH,
        ),
    ),
}


def tensors(name):
    variant = small(FILES[name][0])
    rng = np.random.default_rng(0)
    patch = (WIDTH, 3, variant.patch, variant.patch)
    return {
        key: rng.standard_normal(shape or patch).astype(np.float32)
        for key, shape in FILES[name][1].items()
    }


def converted(name, found):
    variant = small(FILES[name][0])
    return convert(found, table(variant, found), shapes(variant))


@pytest.mark.parametrize("name", FILES)
def test_every_name_is_known_and_every_parameter_made(name):
    found = tensors(name)
    parameters = flatten_dict(converted(name, found), sep="/")
    flat = parameters["patch/kernel"].reshape(-1, WIDTH)
    (patch,) = (value for value in found.values() if value.ndim == 4)
    np.testing.assert_array_equal(flat.T, patch.transpose(0, 2, 3, 1).reshape(WIDTH, -1))
    for missing in found:
        rest = {key: value for key, value in found.items() if key != missing}
        ignored = ("mask_token", "rope_embed", "local_cls_norm")
        if missing.removeprefix("embeddings.").startswith(ignored):
            if "mask_token" not in missing:
                converted(name, rest)
            continue
        with pytest.raises(UserError, match=r"not the weights of DINOv\d"):
            converted(name, rest)
    with pytest.raises(UserError, match="unexpected blocks.2.norm1.weight"):
        converted(name, found | {"blocks.2.norm1.weight": np.zeros(WIDTH, np.float32)})


def test_the_class_token_takes_its_position_along():
    found = tensors("original")
    parameters = converted("original", found)
    expected = found["cls_token"][0, 0] + found["pos_embed"][0, 0]
    np.testing.assert_array_equal(parameters["class_token"], expected)
    # Row by row.
    np.testing.assert_array_equal(parameters["positions"][2, 5], found["pos_embed"][0, 1 + 79])


def test_all_files_give_the_same_network():
    found = tensors("original, registers, swiglu")
    expected = converted("original, registers, swiglu", found)
    renamed = {}
    for key, value in found.items():
        start, _, end = key.partition(".attn.qkv.")
        if end:
            for name, part in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                renamed[f"{start}.attention.attention.{name}.{end}"] = part
            continue
        for ours, theirs in (
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("mlp.w12", "mlp.weights_in"),
            ("mlp.w3", "mlp.weights_out"),
            ("patch_embed.proj", HF2_PATCH),
            ("pos_embed", "embeddings.position_embeddings"),
        ):
            key = key.replace(ours, theirs)
        renamed[f"embeddings.{key}" if key.endswith("_token") or "register" in key else key] = value
    renamed = {
        key.replace("blocks.", "encoder.layer."): value
        for key, value in renamed.items()
        if not key.startswith("norm.")
    } | {f"layernorm.{end}": found[f"norm.{end}"] for end in ("weight", "bias")}
    again = converted("hf, registers, swiglu", renamed)
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_keys_have_no_bias_in_dinov3():
    found = tensors("original, v3")
    for number in range(2):
        mask = np.repeat(np.float32([1, 0, 1]), WIDTH)
        found[f"blocks.{number}.attn.qkv.bias_mask"] = mask
    bias = converted("original, v3", found)["block_1"]["qkv"]["bias"]
    query, key, value = np.split(found["blocks.0.attn.qkv.bias"], 3)
    np.testing.assert_array_equal(bias, np.concatenate([query, 0 * key, value]))
    for name in ("hf, v3", "timm, v3, biases, swiglu"):
        bias = converted(name, tensors(name))["block_1"]["qkv"]["bias"]
        assert (np.abs(bias) > 0).tolist() == [True] * WIDTH + [False] * WIDTH + [True] * WIDTH
    assert not converted("timm, v3", tensors("timm, v3"))["block_1"]["qkv"]["bias"].any()


def test_a_mask_that_was_never_set_is_damage():
    found = tensors("original, v3")
    found["blocks.1.attn.qkv.bias_mask"] = np.full(3 * WIDTH, np.nan, np.float32)
    with pytest.raises(UserError, match="bias_mask.*not finite everywhere"):
        converted("original, v3", found)


def test_another_width_is_told():
    found = tensors("hf")
    variant = small("dinov2_vits14")._replace(width=16)
    with pytest.raises(UserError, match=r"shape \[8, 3, 14, 14\], expected \[16, 3, 14, 14\]"):
        convert(found, table(variant, found), shapes(variant))
