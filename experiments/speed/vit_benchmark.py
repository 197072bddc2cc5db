"""A vision transformer's features, against the same network in PyTorch.

    python experiments/speed/vit_benchmark.py [--backbones=dinov2_vits14] [--sizes=392,518]
        [--types=float32] [--batch=1] [--repetitions=9] [--compiled] [--json=FILE]
        [--markdown=FILE]

Both compute the last block's features, after the final norm, of the same images with the same
random weights, in one process and in turn. The first calls, which compile, are not counted. A row
says how far ours lie from PyTorch's: the largest difference over the largest magnitude, and the
norm of the differences over the norm. PyTorch runs on the kind of device that JAX runs on, with the
attention that it fuses itself, and with --compiled through `torch.compile` too. `ratio` is
PyTorch's time over the row's, the median over the turns; `processor_seconds` are those of all cores
together, the least of the turns, which other programs on the machine change little.

`flops` are those of the matrix products. On an accelerator `share_of_peak` compares them with what
its maker says of dense products (of float32 in its tensor cores, TF32, which JAX uses there and
PyTorch is told to use), and `share_of_product` with one large product measured here.
"""

import functools
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.models import backbones
from apanet_jax.models.dino import VARIANTS
from apanet_jax.models.vit import Variant
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import OURS, Row

TYPES = ("float32", "bfloat16")
_TORCH, _COMPILED = "PyTorch", "PyTorch compiled"
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.1}
"""Of the relative norm; TF32 has the mantissa of float16."""

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
    parameters = _random_parameters(name, size)
    runs = {OURS: _ours(name, parameters, images, dtype)}
    try:
        runs |= _theirs(VARIANTS[name], parameters, images, dtype, compiled)
    except ImportError as error:
        yield {"implementation": _TORCH, "missing": str(error)}
    found = {}
    for key, run in list(runs.items()):
        try:
            found[key] = run()
        except Exception as error:  # A compiler or its tools may be missing.
            if key != _COMPILED:
                raise
            del runs[key]
            yield {"implementation": key, "missing": f"{type(error).__name__}: {error}"[:200]}
    times: dict[str, list[float]] = {key: [] for key in runs}
    processor: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(repetitions):
        for key, run in harness.in_turn(runs, turn):
            harness.settle(0.05)
            before = time.process_time()
            times[key].append(harness.timed(run)[0])
            processor[key].append(time.process_time() - before)
    for key, seconds in times.items():
        row = {"implementation": key, "backbone": name, "size": size, "type": dtype}
        row |= {"batch": batch} | harness.spread(seconds)
        row["processor_seconds"] = min(processor[key])
        if _TORCH in times:
            turns = zip(times[_TORCH], seconds, strict=True)
            row["ratio"] = statistics.median(theirs / own for theirs, own in turns)
        row["images_per_second"] = batch / row["seconds"]
        row["flops"] = batch * products(VARIANTS[name], size)
        row["flops_per_second"] = row["flops"] / row["seconds"]
        row |= _shares(row["flops_per_second"], dtype)
        if key == OURS and _TORCH in found:
            row |= _errors(found[OURS], found[_TORCH], dtype)
        yield row


def _errors(found: np.ndarray, expected: np.ndarray, dtype: str) -> Row:
    norm = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    largest = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {"largest_error": largest, "relative_norm": norm, "right": norm < _TOLERANCE[dtype]}


def device_rows(small: bool) -> Iterator[Row]:
    """Returns the rows of gpu_check.py: two networks in both types, or a small one."""
    if small:
        for dtype in TYPES:
            yield from measure("dinov2_vits14", 56, dtype, batch=2, repetitions=2)
        return
    for name, dtype in itertools.product(("dinov2_vits14", "dinov2_vitl14"), TYPES):
        yield from measure(name, 518, dtype, batch=32, repetitions=9, compiled=True)


def _random_parameters(name: str, size: int):
    # The modules' own initializers take minutes to compile.
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    shapes = jax.eval_shape(backbones.create(name).init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim == 1:
            return 0.05 * noise + ("scale" in path[-1].key)
        return noise / np.float32(leaf.shape[0] ** 0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


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
    import torch

    from experiments.speed.vit_peer import Peer

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


def table(rows: list[Row]) -> str:
    """Returns Markdown, a line a row."""
    heads = ("network", "size", "type", "implementation", "milliseconds", "images a second")
    cells = [
        (
            *(row[name] for name in ("backbone", "size", "type", "implementation")),
            harness.milliseconds(row),
            f"{row['images_per_second']:.2f}",
            f"{1e3 * row['processor_seconds']:.0f}",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
        )
        for row in rows
        if "missing" not in row
    ]
    return harness.table((*heads, "processor milliseconds", "PyTorch's time / this"), cells)


def page(result: Row) -> str:
    """Returns the page for experiments/results."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    errors = [row["largest_error"] for row in result["rows"] if "largest_error" in row]
    return f"""# Features of vision transformers, against the same networks in PyTorch

    {result["command"]}

{result["device"]}. {versions}. Load average when it started: {result["load_average"][0]:.2f}.

Milliseconds of a batch: median (fastest to slowest repetition). Processor milliseconds: of all
cores together, the least. The last column is the median of the ratios of the turns. The features
differ by {max(errors, default=math.nan):.1e} of their largest magnitude at most.

{table(result["rows"])}"""


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
    parser.add_argument("--markdown", type=Path, help="write a page there")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a table, and writes the rows where `--json` asked for them."""
    given = arguments().parse_args(argv)
    for name, size in itertools.product(given.backbones, given.sizes):
        backbones.check_size(name, size)
    command = ["python experiments/speed/vit_benchmark.py", *(argv or sys.argv[1:])]
    result = harness.environment() | {
        "command": " ".join(command),
        "load_average": os.getloadavg(),
        "rows": [],
    }
    for name, size, dtype in itertools.product(given.backbones, given.sizes, given.types):
        result["rows"] += measure(
            name,
            size,
            dtype,
            batch=given.batch,
            repetitions=given.repetitions,
            compiled=given.compiled,
        )
    harness.publish(result, table(result["rows"]), given.json)
    if given.markdown:
        harness.write_page(given.markdown, page(result))
    if not all(row.get("right", True) for row in result["rows"]):
        raise UserError("the features differ from PyTorch's: see relative_norm")


if __name__ == "__main__":
    main()
