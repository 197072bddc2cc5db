"""A vision transformer in PyTorch as it is usually written, with the weights of ours."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from apanet_jax.models.resnet import DEVIATION, MEAN
from apanet_jax.models.vit import Variant
from apanet_jax.weights.mapping import Parameters


class Block(nn.Module):
    """Attention, fused by PyTorch, and an MLP, each with a norm, a scale and a bypass."""

    def __init__(self, variant: Variant):
        super().__init__()
        width, self.heads, self.gated = variant.width, variant.heads, variant.gated
        self.norm1 = nn.LayerNorm(width, eps=variant.epsilon)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=variant.epsilon)
        self.mlp_in = nn.Linear(width, variant.hidden * (1 + variant.gated))
        self.mlp_out = nn.Linear(variant.hidden, width)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.scale2 = nn.Parameter(torch.ones(width))

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.scale1 * self.output(y.transpose(1, 2).reshape(batch, tokens, width))
        y = self.mlp_in(self.norm2(x))
        if self.gated:
            gate, up = y.chunk(2, -1)
            y = functional.silu(gate) * up
        else:
            y = functional.gelu(y)
        return x + self.scale2 * self.mlp_out(y)


class Peer(nn.Module):
    """The whole network, for variants with a table of positions."""

    def __init__(self, variant: Variant, parameters: Parameters):
        super().__init__()
        self.variant = variant
        width, side = variant.width, variant.table_side
        self.patch = nn.Conv2d(3, width, variant.patch, variant.patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.registers = nn.Parameter(torch.zeros(variant.registers, width))
        self.positions = nn.Parameter(torch.zeros(side, side, width))
        self.blocks = nn.ModuleList(Block(variant) for _ in range(variant.depth))
        self.norm = nn.LayerNorm(width, eps=variant.epsilon)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None])
        self._load(parameters)

    def forward(self, images):
        """Returns the patches after the last block and the norm, `[batch, patches, channels]`."""
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        x = self.patch(x.to(self.patch.weight.dtype))
        table = self.positions.permute(2, 0, 1)[None].float()
        table = functional.interpolate(
            table, x.shape[2:], mode="bicubic", antialias=self.variant.smooth_table
        )
        x = (x + table.to(x.dtype)).flatten(2).transpose(1, 2)
        first = torch.cat([self.class_token[None], self.registers])
        x = torch.cat([first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, len(first) :]

    def _load(self, parameters: Parameters) -> None:
        side = self.variant.patch
        found = dict(parameters)
        kernel = np.asarray(found.pop("patch")["kernel"]).reshape(side, side, 3, -1)
        state = {
            "patch.weight": kernel.transpose(3, 2, 0, 1),
            "patch.bias": parameters["patch"]["bias"],
            "mean": self.mean,
            "deviation": self.deviation,
            "registers": found.pop("registers", self.registers.detach()),
        }
        for name in ("class_token", "positions"):
            state[name] = found.pop(name)
        for name, value in found.pop("norm").items():
            state[f"norm.{'weight' if name == 'scale' else name}"] = value
        for number in range(self.variant.depth):
            for name, value in found[f"block_{number + 1}"].items():
                path = f"blocks.{number}.{name}"
                if not isinstance(value, dict):
                    state[path] = value
                elif "kernel" in value:
                    state[f"{path}.weight"] = np.asarray(value["kernel"]).T
                    state[f"{path}.bias"] = value["bias"]
                else:
                    state |= {f"{path}.weight": value["scale"], f"{path}.bias": value["bias"]}
        self.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in state.items()})
