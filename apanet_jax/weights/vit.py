"""Names of DINOv2's and DINOv3's weights: the originals', Hugging Face's and timm's."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from apanet_jax.models.vit import Variant
from apanet_jax.weights.mapping import Made, Table


class Naming(NamedTuple):
    """What one kind of file calls its tensors; those of linear layers end in weight and bias.

    Attributes:
      kind: who names them so.
      block: of a block, with its number from 0 for the braces; all after `norm` lie in there.
      patch: the convolution that makes tokens of patches.
      class_token: its token.
      registers: their tokens.
      positions: the table, with the class token's row before the others.
      norm: the last layer norm.
      qkv: the linear layers that make queries, keys and values; one name if there is one for all.
      output: the linear layer behind the attention.
      scales: the factors of the attention and of the MLP.
      mlp: the linear layers of an MLP: those that go in, then the one that comes out.
      gated: the same of a SwiGLU, whose first layer (or first half of the only one) is the gate.
      dropped: patterns of other names: what only training or no model with these weights uses.
    """

    kind: str
    block: str
    patch: str
    class_token: str
    registers: str
    positions: str
    norm: str
    qkv: tuple[str, ...]
    output: str
    scales: tuple[str, str]
    mlp: tuple[str, ...] = ("mlp.fc1", "mlp.fc2")
    gated: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


_FACEBOOK = Naming(
    "the original does",
    block="blocks.{}",
    patch="patch_embed.proj",
    class_token="cls_token",
    registers="register_tokens",
    positions="pos_embed",
    norm="norm",
    qkv=("attn.qkv",),
    output="attn.proj",
    scales=("ls1.gamma", "ls2.gamma"),
    gated=("mlp.w12", "mlp.w3"),
    dropped=("mask_token",),
)
_TIMM = _FACEBOOK._replace(
    kind="timm does", registers="reg_token", gated=("mlp.fc1", "mlp.fc2"), dropped=()
)
_HUGGING_FACE = Naming(
    "Hugging Face does",
    block="encoder.layer.{}",
    patch="embeddings.patch_embeddings.projection",
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
    positions="embeddings.position_embeddings",
    norm="layernorm",
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    output="attention.output.dense",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    gated=("mlp.weights_in", "mlp.weights_out"),
    dropped=("embeddings.mask_token",),
)
DINOV2 = {"original": _FACEBOOK, "timm": _TIMM, "hf": _HUGGING_FACE}
DINOV3 = {
    "original": _FACEBOOK._replace(
        registers="storage_tokens",
        gated=("mlp.w1", "mlp.w2", "mlp.w3"),
        # The norm of small crops is one that only training uses.
        dropped=("mask_token", "rope_embed.periods", "local_cls_norm.*"),
    ),
    "timm": _TIMM._replace(
        scales=("gamma_1", "gamma_2"), gated=("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")
    ),
    "hf": _HUGGING_FACE._replace(
        block="layer.{}",
        patch="embeddings.patch_embeddings",
        norm="norm",
        qkv=tuple(f"attention.{name}_proj" for name in "qkv"),
        output="attention.o_proj",
        mlp=("mlp.up_proj", "mlp.down_proj"),
        gated=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ),
}


def table(variant: Variant, tensors: Mapping[str, np.ndarray]) -> Table:
    """Returns the table of the naming that a file of a vision transformer's weights follows.

    Args:
      variant: which network is wanted.
      tensors: what the file holds.
    """
    family = "hf" if "embeddings.cls_token" in tensors else "timm"
    if "mask_token" in tensors:
        family = "original"
    naming = (DINOV2 if variant.table_side else DINOV3)[family]
    return Table(
        kind=f"{variant.name} (named as {naming.kind})",
        rows=(*_token_rows(variant, naming), *_block_rows(variant, naming, family, tensors)),
        dropped=naming.dropped,
    )


def _token_rows(variant: Variant, naming: Naming) -> Iterator[Made]:
    width, patch = variant.width, variant.patch
    yield Made(
        ("patch", "kernel"),
        {f"{naming.patch}.weight": (width, 3, patch, patch)},
        lambda kernel: kernel.transpose(2, 3, 1, 0).reshape(-1, width),
    )
    yield Made(("patch", "bias"), {f"{naming.patch}.bias": (width,)}, _same)
    class_token = {naming.class_token: (1, 1, width)}
    if variant.registers:
        registers = {naming.registers: (1, variant.registers, width)}
        yield Made(("registers",), registers, lambda tokens: tokens[0])
    side = variant.table_side
    # The class token of timm's networks with registers has its position in it already.
    apart = side and not (naming is _TIMM and variant.registers)
    if side:
        positions = {naming.positions: (1, side * side + bool(apart), width)}
        yield Made(
            ("positions",),
            positions,
            lambda rows: rows[0, int(bool(apart)) :].reshape(side, side, width),
        )
    if apart:
        yield Made(
            ("class_token",), class_token | positions, lambda token, rows: token[0, 0] + rows[0, 0]
        )
    else:
        yield Made(("class_token",), class_token, lambda token: token[0, 0])
    yield from _norm_rows(("norm",), naming.norm, width)


def _block_rows(
    variant: Variant, naming: Naming, family: str, tensors: Mapping[str, np.ndarray]
) -> Iterator[Made]:
    width, hidden = variant.width, variant.hidden
    *into, out = naming.gated if variant.gated else naming.mlp
    for number in range(variant.depth):
        ours, theirs = f"block_{number + 1}", naming.block.format(number)

        def linear(name, sources, inputs, outputs, ours=ours, theirs=theirs):
            path, share = (ours, name), outputs // len(sources)
            weights = {f"{theirs}.{source}.weight": (share, inputs) for source in sources}
            yield Made((*path, "kernel"), weights, lambda *parts: np.concatenate(parts).T)
            biases = {f"{theirs}.{source}.bias": (share,) for source in sources}
            yield Made((*path, "bias"), biases, lambda *parts: np.concatenate(parts))

        kernel, bias = linear("qkv", naming.qkv, width, 3 * width)
        yield kernel
        if variant.table_side:
            yield bias
        else:
            yield _masked_bias(bias, family, f"{theirs}.attn", width, tensors)
        yield from linear("output", [naming.output], width, width)
        yield from linear("mlp_in", into, width, hidden * (1 + variant.gated))
        yield from linear("mlp_out", [out], hidden, width)
        for index in (1, 2):
            yield from _norm_rows((ours, f"norm{index}"), f"{theirs}.norm{index}", width)
            scale = {f"{theirs}.{naming.scales[index - 1]}": (width,)}
            yield Made((ours, f"scale{index}"), scale, _same)


def _masked_bias(
    bias: Made, family: str, attention: str, width: int, tensors: Mapping[str, np.ndarray]
) -> Made:
    """Returns the row of the biases of DINOv3's queries, keys and values: keys have none.

    The original multiplies them by a mask. timm leaves them out of those networks where all are 0.
    """
    zeros = np.zeros(width, np.float32)
    if family == "original":
        # A mask that was never set holds no numbers; it would be taken for a damaged file.
        sources = bias.sources | {f"{attention}.qkv.bias_mask": (3 * width,)}
        return Made(bias.path, sources, lambda bias, mask: bias * mask)
    if family == "timm":
        names = f"{attention}.q_bias", f"{attention}.v_bias"
        if not any(name.endswith((".q_bias", ".v_bias")) for name in tensors):
            return Made(bias.path, {}, lambda: np.zeros(3 * width, np.float32))
        sources = dict.fromkeys(names, (width,))
    else:
        sources = {name: shape for name, shape in bias.sources.items() if ".k_proj." not in name}
    return Made(bias.path, sources, lambda query, value: np.concatenate([query, zeros, value]))


def _norm_rows(path: tuple[str, ...], source: str, width: int) -> Iterator[Made]:
    yield Made((*path, "scale"), {f"{source}.weight": (width,)}, _same)
    yield Made((*path, "bias"), {f"{source}.bias": (width,)}, _same)


def _same(tensor: np.ndarray) -> np.ndarray:
    return tensor
