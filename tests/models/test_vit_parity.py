"""DINOv2 and DINOv3 in Flax against `transformers`, with random weights of small width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apanet_jax.models.vit import Variant, ViT
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.mapping import convert
from apanet_jax.weights.vit import table

pytestmark = pytest.mark.slow  # Importing transformers alone takes several seconds.

WIDTH, HEADS, DEPTH = 32, 2, 3
BLOCKS = tuple(range(1, DEPTH + 1))
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TABLE = {"patch": 14, "table_side": 5, "gated": False}
ROTARY = {"patch": 16, "table_side": 0, "registers": 4, "epsilon": 1e-5, "gated": False}
CASES = {
    "dinov2": TABLE,
    "dinov2 swiglu": TABLE | {"gated": True},
    "registers": TABLE | {"registers": 4, "smooth_table": True},
    "registers swiglu": TABLE | {"registers": 2, "smooth_table": True, "gated": True},
    "dinov3": ROTARY,
    "dinov3 swiglu": ROTARY | {"gated": True},
}


def small(name):
    case = CASES[name]
    # Two thirds of four times the width, in multiples of 8, as DINOv2's SwiGLU has them.
    hidden = 88 if case["gated"] and case["table_side"] else 4 * WIDTH
    return Variant(name, WIDTH, DEPTH, HEADS, hidden, **case)


def reference(variant):
    """A network of `transformers` with random weights, none of which is 0 or 1 by chance."""
    import transformers

    shared = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "patch_size": variant.patch,
    }
    registers = {"num_register_tokens": variant.registers}
    torch.manual_seed(0)
    if variant.table_side:
        shared |= {"image_size": variant.table_side * variant.patch, "mlp_ratio": 4}
        shared |= {"use_swiglu_ffn": variant.gated}
        if variant.registers:
            config = transformers.Dinov2WithRegistersConfig(**shared, **registers)
            network = transformers.Dinov2WithRegistersModel(config)
        else:
            network = transformers.Dinov2Model(transformers.Dinov2Config(**shared))
    else:
        shared |= {"use_gated_mlp": variant.gated, "intermediate_size": variant.hidden}
        shared |= {"hidden_act": "silu" if variant.gated else "gelu"}
        network = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**shared, **registers))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Returns, by name, a variant, the reference, and our parameters from the file it saves."""
    made = {}

    def of(name):
        if name not in made:
            variant = small(name)
            theirs = reference(variant)
            folder = tmp_path_factory.mktemp("saved")
            theirs.save_pretrained(folder)
            tensors = read_tensors(folder / "model.safetensors")
            image = jnp.zeros((1, variant.patch, variant.patch, 3))
            module = ViT(variant, BLOCKS)
            shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
            made[name] = variant, theirs, convert(tensors, table(variant, tensors), shapes)
        return made[name]

    return of


@pytest.mark.parametrize("patches", [(4, 4), (2, 7)])
@pytest.mark.parametrize("name", CASES)
def test_every_block_agrees_with_transformers(networks, name, patches):
    variant, theirs, parameters = networks(name)
    size = [count * variant.patch for count in patches]
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    pixels = ((images / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        said = theirs(torch.from_numpy(pixels), output_hidden_states=True)

    @jax.jit
    def run(parameters, images):
        def tokens(blocks, final_norm):
            return ViT(variant, BLOCKS).apply(
                {"params": parameters}, images, blocks, final_norm=final_norm, method="tokens"
            )

        return *tokens(BLOCKS, False), *tokens((DEPTH,), True)

    expected = *said.hidden_states[1:], said.last_hidden_state
    for ours, reference in zip(run(parameters, images), expected, strict=True):
        assert ours.patches.shape == (2, *patches, WIDTH)
        patch_tokens = ours.patches.reshape(2, -1, WIDTH)
        joined = np.concatenate([ours.class_token[:, None], ours.registers, patch_tokens], 1)
        assert joined.shape == reference.shape
        assert np.abs(joined - reference.numpy()).max() < 1e-4 * np.abs(reference.numpy()).max()
