"""The vision transformers of DINOv2 and DINOv3, by name.

Of DINOv2 those without registers resize their table of positions as `transformers` does for
`facebook/dinov2-*` (the original repository adds 0.1 to the number of patches, which moves the
table by a fraction of a patch); those with registers smooth it too, as both do.
"""

from apanet_jax.models.vit import Variant


def _dinov2(letter: str, width: int, depth: int, heads: int, hidden: int, registers: int):
    return Variant(
        f"DINOv2 ViT-{letter}/14" + (" with registers" if registers else ""),
        width,
        depth,
        heads,
        hidden,
        gated=letter == "g",
        registers=registers,
        smooth_table=bool(registers),
    )


def _dinov3(letter: str, width: int, depth: int, heads: int, hidden: int):
    return Variant(
        f"DINOv3 ViT-{letter}/16",
        width,
        depth,
        heads,
        hidden,
        gated=letter.endswith("+"),
        patch=16,
        registers=4,
        table_side=0,
        epsilon=1e-5,
    )


_DINOV2 = {
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "g": (1536, 40, 24, 4096),
}
_DINOV3 = {
    "s": (384, 12, 6, 1536),
    "s+": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h+": (1280, 32, 20, 5120),
}

VARIANTS = {
    f"dinov2_vit{letter}14{ending}": _dinov2(
        letter if letter == "g" else letter.upper(), *sizes, registers
    )
    for registers, ending in ((0, ""), (4, "_reg"))
    for letter, sizes in _DINOV2.items()
} | {
    f"dinov3_vit{letter[0]}16{'plus' if letter[1:] else ''}": _dinov3(letter.upper(), *sizes)
    for letter, sizes in _DINOV3.items()
}
"""Width, depth, heads and hidden channels are those of the published networks."""


def default_blocks(variant: Variant) -> tuple[int, int, int]:
    """Returns the blocks that stand for the paper's blocks 3, 4 and 5: three and one before the
    last of twelve, and the last, and as far along in deeper networks."""
    return round(variant.depth * 9 / 12), round(variant.depth * 11 / 12), variant.depth
