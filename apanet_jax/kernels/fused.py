"""A round of k-means that reads the features once: a Pallas kernel for NVIDIA's Hopper and later.

A program takes some blocks of positions of one picture. Each block is copied to shared memory
once, the next one while it is worked on, and is read there twice: to find every position's nearest
centre, and to add the positions to their clusters' sums. The programs' sums are added up in a fixed
order, so the same input gives the same bits. Products and sums are in float32.

Written for Mosaic GPU: it lowers for CUDA on a machine without a GPU, and runs on a CPU where
Pallas interprets it, so both are tested; what it lowers to assembles for an H100 without spilled
registers. It was never run on a GPU, and no block size here was measured. The alternative, Pallas's
Triton backend, has been deprecated since jax 0.11. One launch for all rounds would need a barrier
over all programs, which nothing but a GPU can test: each round is a launch of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

MOST_CLUSTERS = 16

# Of an H100, in bytes of shared memory for one program, less what the compiler takes.
_SHARED_BYTES = 216 << 10
_MULTIPROCESSORS = 132
# Float32 numbers that a thread can hold for products or sums, of its 255 registers.
_REGISTERS = 64
_STAGES = 2

# Channels lie in shared memory in panels of 128: a copy takes at most 256 along an axis.
_PANEL = 128
# A block's positions for the products: a warp takes every fourth one, a lane 4 channels of a panel.
_ROWS = plgpu.Layout.TILED(
    plgpu.Tiling(((4, _PANEL), (4,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1
)


class _Cut(NamedTuple):
    """How the work is cut.

    Attributes:
      rows: positions in a block, a multiple of 4.
      steps: blocks of one program, one after the other.
      programs: for each picture.
      panels: that are summed at once.
    """

    rows: int
    steps: int
    programs: int
    panels: int

    @property
    def positions(self) -> int:
        """Positions of all blocks: those of a picture and what the last blocks have beyond."""
        return self.rows * self.steps * self.programs


def assign_and_sum(
    features: Float[Array, "batch positions channels"],
    centres: Float[Array, "batch clusters channels"],
    share: Float[Array, "batch positions"],
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> tuple[Int[Array, "batch positions"], Float[Array, "batch clusters channels"]]:
    """Returns each position's nearest centre, and each cluster's sum of share times feature.

    The nearest centre c of x has the largest <x, c>, or <x, c> - |c|^2 / 2 where the metric is
    Euclidean; of equals it is the first. On a CPU Pallas interprets the kernel, slowly.

    Args:
      features: float32 or bfloat16, on one device.
      centres: float32, at most `MOST_CLUSTERS`.
      share: what a position counts: its weight, for the cosine over its length. Of one with 0 the
        feature is not looked at.
      metric: which distance.

    Raises:
      ValueError: where the shapes do not suit the kernel.
    """
    cut = _cut(*features.shape, centres.shape[1], features.dtype.itemsize)
    offset = jnp.zeros(centres.shape[:2], jnp.float32)
    if metric == "euclidean":
        offset = 0.5 * jnp.sum(jnp.square(centres), -1)
    missing = cut.positions - share.shape[1]
    operands = (
        _panelled(features),
        _panelled(centres),
        jnp.pad(share, ((0, 0), (0, missing))),
        offset,
    )
    nearest, sums = jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(_launch, cut, True),
        cuda=functools.partial(_launch, cut, False),
    )
    return nearest[:, : share.shape[1]], sums.sum(1).reshape(centres.shape)


def suits(
    batch: int, positions: int, channels: int, clusters: int, dtype: jnp.dtype = jnp.float32
) -> bool:
    """Tells whether the kernel can cluster features `[batch, positions, channels]`."""
    try:
        _cut(batch, positions, channels, clusters, jnp.dtype(dtype).itemsize)
    except ValueError:
        return False
    return True


def _cut(batch, positions, channels, clusters, item_bytes) -> _Cut:
    if clusters > MOST_CLUSTERS:
        raise _unsuitable(f"is for at most {MOST_CLUSTERS} clusters, got {clusters}")
    if channels % _PANEL:
        raise _unsuitable(f"wants a multiple of {_PANEL} channels, got {channels}")
    kept_bytes = 2 * 4 * clusters * channels
    row_bytes = _STAGES * item_bytes * channels
    rows = next(
        (
            rows
            for rows in (16, 8, 4)
            if rows * clusters <= _REGISTERS and kept_bytes + rows * row_bytes <= _SHARED_BYTES
        ),
        None,
    )
    if rows is None:
        raise _unsuitable(f"has no room on chip for {clusters} clusters of {channels} channels")
    blocks = pl.cdiv(positions, rows)
    resident = min(2, _SHARED_BYTES // (kept_bytes + rows * row_bytes))
    steps = pl.cdiv(blocks, min(blocks, pl.cdiv(resident * _MULTIPROCESSORS, batch)))
    panels = next(
        panels
        for panels in (8, 4, 2, 1)
        if channels % (panels * _PANEL) == 0 and (panels * clusters <= _REGISTERS or panels == 1)
    )
    return _Cut(rows, steps, pl.cdiv(blocks, steps), panels)


def _unsuitable(reason):
    return ValueError(f'kernel="fused" {reason}: take kernel="xla"')


def _panelled(x):
    *leading, channels = x.shape
    return x.reshape(*leading, channels // _PANEL, _PANEL)


def _launch(cut, interpret, features, centres, share, offset):
    batch, clusters, panels, _ = centres.shape
    on_chip = functools.partial(plgpu.SMEM, dtype=jnp.float32)
    in_place = pl.BlockSpec(memory_space=plgpu.GMEM)
    block = pl.BlockSpec(
        (None, cut.rows, panels, _PANEL),
        lambda picture, program, step: (picture, program * cut.steps + step, 0, 0),
    )
    return pl.pallas_call(
        functools.partial(_kernel, cut=cut, interpret=interpret),
        grid=(batch, cut.programs, cut.steps),
        in_specs=[block, in_place, in_place, in_place],
        out_specs=[in_place, in_place],
        out_shape=[
            jax.ShapeDtypeStruct(share.shape, jnp.int32),
            jax.ShapeDtypeStruct((batch, cut.programs, clusters, panels, _PANEL), jnp.float32),
        ],
        scratch_shapes=[
            on_chip((clusters, panels, _PANEL)),
            on_chip((clusters, panels, _PANEL)),
            on_chip((cut.rows,)),
            plgpu.SMEM((cut.rows,), jnp.int32),
        ],
        compiler_params=plgpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "sequential"),
            max_concurrent_steps=_STAGES,
        ),
        interpret=interpret,
        name="assign_and_sum",
    )(features, centres, share, offset)


def _kernel(
    features,
    centres,
    share,
    offset,
    nearest_out,
    sums_out,
    kept_centres,
    sums,
    block_share,
    block_nearest,
    *,
    cut: _Cut,
    interpret: bool,
):
    """One block; the features are in shared memory, the others but the last four are not."""
    picture, program, step = (pl.program_id(axis) for axis in range(3))
    clusters = kept_centres.shape[0]
    place = _Place(interpret, cut)
    here = pl.ds((program * cut.steps + step) * cut.rows, cut.rows)

    @pl.when(step == 0)
    def _():
        def begin(panels):
            read = [place.strided(centres[picture, k, panels]) for k in range(clusters)]
            for k in range(clusters):
                kept_centres[k, panels] = read[k]
                sums[k, panels] = place.strided(jnp.zeros((cut.panels, _PANEL), jnp.float32))

        _for_panels(cut, features, begin)

    share_here = place.load_row(share, (picture, here))
    nearest = _nearest(features, kept_centres, [offset[picture, k] for k in range(clusters)], place)
    nearest_out[picture, here] = nearest
    block_nearest[...] = nearest
    block_share[...] = share_here
    _for_panels(
        cut,
        features,
        functools.partial(_add_block, features, block_share, block_nearest, sums, place),
    )

    @pl.when(step == cut.steps - 1)
    def _():
        def end(panels):
            for k in range(clusters):
                sums_out[picture, program, k, panels] = place.strided(sums[k, panels])

        _for_panels(cut, features, end)


def _nearest(features, centres, offsets, place):
    """Returns, for the rows of the block, the number of the nearest centre."""
    rows, panels, _ = features.shape

    def add_panel(panel, products):
        x = place.rows(features[:, panel]).astype(jnp.float32)
        read = [place.panel(centres[k, panel]) for k in range(len(offsets))]
        return [
            product + x * place.rows(jax.lax.broadcast_in_dim(c, x.shape, (1,)))
            for product, c in zip(products, read, strict=True)
        ]

    nothing = place.rows(jnp.zeros((rows, _PANEL), jnp.float32))
    products = jax.lax.fori_loop(0, panels, add_panel, [nothing] * len(offsets))
    similarities = [jnp.sum(x, 1) - offset for x, offset in zip(products, offsets, strict=True)]
    largest, nearest = similarities[0], place.row(jnp.zeros((rows,), jnp.int32))
    for k, similarity in enumerate(similarities[1:], 1):
        nearest = jnp.where(similarity > largest, k, nearest)
        largest = jnp.maximum(similarity, largest)
    return nearest


def _add_block(features, share, nearest, sums, place, panels):
    """Adds the block's rows to the sums of their clusters, for some panels of channels."""
    clusters = sums.shape[0]

    def add_row(row, totals):
        own, cluster = share[row], nearest[row]
        x = place.strided(features[row, panels]).astype(jnp.float32)
        # Rows beyond the last position hold anything.
        x = jnp.where(own != 0, x, jnp.zeros_like(x))
        return [total + jnp.where(cluster == k, own, 0.0) * x for k, total in enumerate(totals)]

    totals = [place.strided(sums[k, panels]) for k in range(clusters)]
    totals = jax.lax.fori_loop(0, features.shape[0], add_row, totals)
    for k, total in enumerate(totals):
        sums[k, panels] = total


def _for_panels(cut, features, function):
    """Calls `function` with each slice of so many panels as are summed at once."""

    def body(number, _):
        function(pl.ds(number * cut.panels, cut.panels))
        return 0

    jax.lax.fori_loop(0, features.shape[1] // cut.panels, body, 0)


class _Place:
    """Says how an array lies in the registers of a program's threads; nothing if interpreted."""

    def __init__(self, interpret: bool, cut: _Cut):
        self._interpret = interpret
        self._strided = plgpu.Layout.WG_STRIDED((cut.panels, _PANEL), min(4, cut.panels))

    def rows(self, x):
        """Rows of a block, a panel of channels each."""
        return self._cast(x, _ROWS)

    def row(self, x):
        """One number for each row of a block."""
        return self._cast(x, _ROWS.reduce(1))

    def panel(self, x):
        """A panel of channels, for each row the same."""
        return self._cast(x, _ROWS.reduce(0))

    def strided(self, x):
        """Some panels of one row, spread over all threads."""
        return self._cast(x, self._strided)

    def load_row(self, ref, index):
        """Loads a number for each row from the GPU's memory."""
        if self._interpret:
            return ref[index]
        return plgpu.load(ref, index, layout=_ROWS.reduce(1), optimized=False)

    def _cast(self, x, layout):
        return x if self._interpret else plgpu.layout_cast(x, layout)
