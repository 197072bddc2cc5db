"""A vision transformer's features, against the same network in PyTorch.

    python experiments/speed/vit_benchmark.py [--backbones=dinov2_vits14] [--sizes=392,518]
        [--types=float32] [--batch=1] [--repetitions=9] [--compiled] [--json=FILE]

Both compute the last block's features, after the final norm, of the same images with the same
random weights, in one process and in turn. The first calls, which compile, are not counted. A row
says how far the two differ, over the largest magnitude. PyTorch runs on the kind of device that JAX
runs on, with the attention that it fuses itself, and with --compiled through `torch.compile` too.

`flops` are those of the matrix products. On an accelerator `share_of_peak` compares them with what
its maker says of dense products (of float32 in its tensor cores, TF32, which JAX uses there and
PyTorch is told to use), and `share_of_product` with one large product measured here.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.models import backbones
from apanet_jax.models.dino import VARIANTS
from apanet_jax.models.vit import Variant
from apanet_jax.runtime.errors import Parser, UserError
from apanet_jax.weights.load import load_backbone
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed.vit_peer import Peer

TYPES = ("float32", "bfloat16")
_TORCH, _COMPILED = "PyTorch", "PyTorch compiled"
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}

# Dense products, in FLOP/s, as NVIDIA's data sheets have them.
_PEAKS = {
    "H100": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "H200": {"bfloat16": 989.4e12, "float32": 494.7e12},
}
_PRODUCT_SIDE = 8192


def products(variant: Variant, size: int) -> int:
    """Returns the floating-point operations of all matrix products of one square image."""
    patches = (size // variant.patch) ** 2
    tokens = patches + 1 + variant.registers
    width, hidden = variant.width, variant.hidden
    linear = 4 * width * width + (2 + variant.gated) * width * hidden
    block = 2 * tokens * linear + 4 * tokens * tokens * width
    return variant.depth * block + 2 * patches * 3 * variant.patch**2 * width


def measure(
    name: str, size: int, dtype: str, *, batch: int, repetitions: int, compiled: bool = False
) -> Iterator[Row]:
    """Times ours and PyTorch's in turn; a row each.

    Args:
      name: a backbone that is a vision transformer with a table of positions.
      size: side of the images.
      dtype: one of `TYPES`.
      batch: images a call.
      repetitions: calls that are counted.
      compiled: whether `torch.compile` takes part.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    parameters = load_backbone(name, "random")
    runs = {OURS: _ours(name, parameters, images, dtype)}
    runs |= _theirs(VARIANTS[name], parameters, images, dtype, compiled)
    found = {key: run() for key, run in runs.items()}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(repetitions):
        for key, run in harness.in_turn(runs, turn):
            harness.settle(0.05)
            times[key].append(harness.timed(run)[0])
    expected = found[_TORCH]
    error = float(np.abs(found[OURS] - expected).max() / np.abs(expected).max())
    for key, seconds in times.items():
        row = {"implementation": key, "backbone": name, "size": size, "type": dtype}
        row |= {"batch": batch} | harness.spread(seconds)
        row["images_per_second"] = batch / row["seconds"]
        row["flops"] = batch * products(VARIANTS[name], size)
        row["flops_per_second"] = row["flops"] / row["seconds"]
        row |= _shares(row["flops_per_second"], dtype)
        if key == OURS:
            row |= {"largest_error": error, "right": error < _TOLERANCE[dtype]}
        yield row


def _ours(name, parameters, images, dtype) -> Callable[[], np.ndarray]:
    module = backbones.create(name, dtype=jnp.dtype(dtype))
    depth = VARIANTS[name].depth

    @jax.jit
    def run(parameters, images):
        (last,) = module.apply({"params": parameters}, images, (depth,), method="maps")
        # What is brought back is the same for both, and small.
        return last.astype(jnp.float32).reshape(len(images), -1, last.shape[-1])[:, ::16]

    placed = jax.device_put((parameters, images))
    return lambda: np.asarray(run(*placed))


def _theirs(variant, parameters, images, dtype, compiled) -> dict[str, Callable[[], np.ndarray]]:
    kind = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    peer = Peer(variant, parameters).eval().to(kind, getattr(torch, dtype))
    placed = torch.from_numpy(images).to(kind)

    def run(network):
        with torch.inference_mode():
            return network(placed)[:, ::16].float().cpu().numpy()

    runs = {_TORCH: functools.partial(run, peer)}
    if compiled:
        runs[_COMPILED] = functools.partial(run, torch.compile(peer))
    return runs


def _shares(flops_per_second: float, dtype: str) -> Row:
    """Returns the shares of what an accelerator can do; nothing on a CPU."""
    if jax.default_backend() == "cpu":
        return {}
    shares = {"share_of_product": flops_per_second / _measured_peak(dtype)}
    kind = jax.devices()[0].device_kind
    for name, peaks in _PEAKS.items():
        if name in kind:
            shares["share_of_peak"] = flops_per_second / peaks[dtype]
    return shares


@functools.cache
def _measured_peak(dtype: str) -> float:
    """Returns the FLOP/s of the best of several large matrix products."""
    side = _PRODUCT_SIDE
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    return 2 * side**3 / min(harness.timed(product, x)[0] for _ in range(5))


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    tables = [name for name, variant in VARIANTS.items() if variant.table_side]
    parser.add_argument("--backbones", type=harness.some_of(tables), default=["dinov2_vits14"])
    parser.add_argument("--sizes", type=harness.numbers, default=[392, 518])
    parser.add_argument("--types", type=harness.some_of(TYPES), default=["float32"])
    parser.add_argument("--batch", type=harness.whole(1), default=1)
    parser.add_argument("--repetitions", type=harness.whole(1), default=9)
    parser.add_argument("--compiled", action="store_true")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a table, and writes the rows where `--json` asked for them."""
    given = arguments().parse_args(argv)
    for name, size in itertools.product(given.backbones, given.sizes):
        backbones.check_size(name, size)
    result = harness.environment() | {"load_average": os.getloadavg(), "rows": []}
    for name, size, dtype in itertools.product(given.backbones, given.sizes, given.types):
        result["rows"] += measure(
            name,
            size,
            dtype,
            batch=given.batch,
            repetitions=given.repetitions,
            compiled=given.compiled,
        )
    heads = ("network", "size", "type", "implementation", "milliseconds", "images a second")
    cells = [
        (
            row["backbone"],
            row["size"],
            row["type"],
            row["implementation"],
            harness.milliseconds(row),
            f"{row['images_per_second']:.2f}",
        )
        for row in result["rows"]
    ]
    harness.publish(result, harness.table(heads, cells), given.json)
    if not all(row.get("right", True) for row in result["rows"]):
        raise UserError("the features differ from PyTorch's: see largest_error")


if __name__ == "__main__":
    main()
