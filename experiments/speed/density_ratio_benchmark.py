"""The density ratio of supports: this package against PyTorch's einsum and logsumexp.

    python experiments/speed/density_ratio_benchmark.py [--json=FILE] [--markdown=FILE]
        [--shapes=all|GROUP,…] [--device=cpu|gpu] [--repetitions=5]

All implementations take the same features and 0/1 masks in the same process, in turn, with other
data in each repetition; the first call is timed by itself. Two PyTorch peers: `PyTorch` adds the
logarithm of the weights to the cosines, as it must for fractional weights and batches, and
`PyTorch, indexed` picks the columns of the foreground and of the background, which takes 0/1
weights and one episode. `largest_error` is the largest difference to NumPy in float64 at 64 query
positions of the first repetition. `memory_bytes` is what a call takes beside its inputs: for this
package what the compiled program asks for, for PyTorch what was measured.

A page that --markdown finds keeps its notes, from its first second-level heading on.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.kernels import density_ratio
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import OURS, Row

BANDWIDTH = 0.05
CHECKED = 64


class Shape(NamedTuple):
    """Supports and a query of `side` x `side` positions each; backward: with both gradients."""

    supports: int
    side: int
    channels: int
    type: str = "float32"
    backward: bool = False

    def row(self) -> Row:
        """Returns the sizes as a row has them."""
        queries = self.side**2
        sizes = {"queries": queries, "positions": self.supports * queries}
        names = ("supports", "channels", "type", "backward")
        return sizes | {name: getattr(self, name) for name in names}


SHAPES = {
    "dino": [Shape(n, 37, 384) for n in (1, 5, 50)],
    "lite": [Shape(5, 37, 112)],
    "paper": [Shape(5, 60, 2048)],
    "backward": [Shape(5, 37, 384, backward=True)],
    "low": [Shape(n, 37, 384, "bfloat16") for n in (5, 50)],
    "small": [Shape(2, 6, 16), Shape(1, 6, 16, backward=True)],
}
ON_CPU = ("dino", "lite", "paper", "backward")
"""The default there, where bfloat16 is slower."""

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    parser.add_argument("--markdown", type=Path, help="write a page there")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: the one that jax finds")
    groups = harness.some_of(SHAPES, all=list(SHAPES))
    parser.add_argument("--shapes", type=groups, help=f"all or {','.join(SHAPES)}")
    repetitions = {"type": harness.whole(1), "default": 5}
    parser.add_argument("--repetitions", **repetitions, help="timed calls (5)")
    return parser


def draw(shape: Shape, repetition: int) -> Data:
    """Returns query, support, foreground and background: two classes of noisy directions."""
    rng = np.random.default_rng([*shape[:3], repetition])
    queries = shape.side**2
    directions = rng.standard_normal((2, shape.channels), np.float32)

    def features(count):
        labels = rng.random(count) < 0.3
        noise = rng.standard_normal((count, shape.channels), np.float32)
        noisy = noise + 0.3 * directions[labels.astype(int)]
        # Rounded for all, so that the types differ in what is done with the same numbers.
        return noisy.astype(jnp.dtype(shape.type)).astype(np.float32), labels.astype(np.float32)

    query, _ = features(queries)
    support, foreground = features(shape.supports * queries)
    return query, support, foreground, 1 - foreground


def exact(query: np.ndarray, support: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """Returns the log ratio at the given query positions in float64."""
    query, support = (x.astype(np.float64) for x in (query, support))
    query /= np.linalg.norm(query, axis=-1, keepdims=True)
    exponents = query @ (support / np.linalg.norm(support, axis=-1, keepdims=True)).T / BANDWIDTH
    density = np.exp(exponents - exponents.max())
    foreground, background = (density @ w / w.sum() for w in weights)
    return np.log(foreground) - np.log(background)


class Ours:
    """This package."""

    def __init__(self, shape: Shape, device: str):
        def total(query, support, foreground, background):
            found = density_ratio(query, support, foreground, background, BANDWIDTH)
            return found.sum(), found

        gradients = jax.grad(total, (0, 1), has_aux=True)
        self._function = jax.jit(gradients if shape.backward else total)
        self._type = shape.type

    def prepare(self, data: Data) -> Callable[[], np.ndarray]:
        features = (jnp.asarray(x, self._type) for x in data[:2])
        operands = jax.block_until_ready((*features, *jax.device_put(data[2:])))
        return lambda: jax.block_until_ready(self._function(*operands))[1]

    def memory(self, data: Data, run: Callable[[], Any]) -> int:
        features = (jax.ShapeDtypeStruct(x.shape, self._type) for x in data[:2])
        program = self._function.lower(*features, *data[2:]).compile()
        return program.memory_analysis().temp_size_in_bytes


class Torch:
    """PyTorch; `indexed` picks columns instead of adding the logarithm of the weights."""

    def __init__(self, shape: Shape, device: str, indexed: bool):
        import torch

        self._torch, self._shape, self._indexed = torch, shape, indexed
        self._place = torch.device("cuda" if device == "gpu" else "cpu")
        if device == "gpu" and not torch.cuda.is_available():
            raise ImportError("PyTorch finds no GPU")

    def prepare(self, data: Data) -> Callable[[], np.ndarray]:
        torch = self._torch
        tensors = [torch.from_numpy(x).to(self._place) for x in data]
        for x in tensors[:2]:
            x.requires_grad_(self._shape.backward)
        features = [x.to(getattr(torch, self._shape.type)) for x in tensors[:2]]

        def run():
            found = self._ratio(*features, *tensors[2:])
            if self._shape.backward:
                torch.autograd.grad(found.sum(), tensors[:2])
            if self._place.type == "cuda":
                torch.cuda.synchronize()
            return found.detach()

        return run

    def _ratio(self, query, support, foreground, background):
        torch = self._torch
        query, support = (torch.nn.functional.normalize(x, dim=-1) for x in (query, support))
        exponents = torch.einsum("qc,pc->qp", query, support).float() / BANDWIDTH
        if self._indexed:
            f, b = (exponents[:, w > 0].logsumexp(-1) for w in (foreground, background))
        else:
            f, b = ((exponents + w.log()).logsumexp(-1) for w in (foreground, background))
        return f - foreground.sum().log() - b + background.sum().log()

    def memory(self, data: Data, run: Callable[[], Any]) -> int:
        torch = self._torch
        if self._place.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return torch.cuda.max_memory_allocated() - before
        with harness.Memory() as memory:
            run()
        return memory.bytes


def implementations(shape: Shape, device: str) -> dict[str, Any]:
    """Returns what can run here; without PyTorch there is ours alone."""
    found = {OURS: Ours(shape, device)}
    for name, indexed in (("PyTorch", False), ("PyTorch, indexed", True)):
        try:
            found[name] = Torch(shape, device, indexed)
        except ImportError as error:
            print(f"missing: {name} ({error})", file=sys.stderr)
    return found


def measure(shape: Shape, device: str, repetitions: int) -> list[Row]:
    """Times all implementations in turn on one shape; a row each."""
    peers = implementations(shape, device)
    times: dict[str, list[float]] = {name: [] for name in peers}
    facts: dict[str, Row] = {}
    for repetition in range(repetitions + 1):
        data = draw(shape, repetition)
        for name, peer in peers.items():
            run = peer.prepare(data)
            harness.settle(0.1)
            start = time.perf_counter()
            found = run()
            seconds = time.perf_counter() - start
            if repetition:
                times[name].append(seconds)
                continue
            found = found.cpu() if hasattr(found, "cpu") else found
            expected = exact(data[0][:CHECKED], *data[1:])
            facts[name] = {
                "first_call_seconds": seconds,
                "largest_error": float(np.abs(np.asarray(found)[:CHECKED] - expected).max()),
                "memory_bytes": peer.memory(data, run),
            }
    rows = []
    for name, own in times.items():
        row = {"implementation": name} | shape.row() | harness.spread(own)
        rows.append(row | {"repetitions": len(own)} | facts[name])
        text = f"{title(row)}, {name}: {harness.milliseconds(row)} ms"
        print(text, file=sys.stderr, flush=True)
    return rows


def title(row: Row) -> str:
    """Returns a shape in words."""
    text = f"{row['queries']} x {row['positions']} x {row['channels']}"
    text += "" if row["type"] == "float32" else f", {row['type']}"
    return text + (", with gradients" if row["backward"] else "")


def table(rows: list[Row]) -> str:
    """Returns Markdown: a line a shape, an implementation a column, milliseconds and megabytes."""
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    lines = []
    for shape in dict.fromkeys(map(title, rows)):
        own = {row["implementation"]: row for row in rows if title(row) == shape}
        cells = [
            f"{harness.milliseconds(row, '.4g')}, {row['memory_bytes'] / 1e6:.0f} MB, "
            f"{row['largest_error']:.0e}"
            for row in own.values()
        ]
        peers = [row["seconds"] for name, row in own.items() if name != OURS]
        lines.append([shape, *cells, f"{min(peers) / own[OURS]['seconds']:.2f}" if peers else ""])
    heads = ("queries x support positions x channels", *names, "fastest peer / ours")
    return harness.table(heads, lines)


def page(result: Row) -> str:
    """Returns the page for experiments/results."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"""# Density ratio of supports: time, memory and error

    {result["command"]}

{result["device"]}. {versions}. Load average when it started: {result["load_average"][0]:.2f}.

Milliseconds: median (fastest to slowest repetition) for the same features and masks. Megabytes:
taken beside the inputs, and the gradients where there are any. Last number of a cell: largest
difference to float64.

{table(result["rows"])}"""


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes what was asked for."""
    given = arguments().parse_args(argv)
    if given.device:
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[given.device])
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    groups = given.shapes or (*ON_CPU, *(("low",) if device == "gpu" else ()))
    command = ["python experiments/speed/density_ratio_benchmark.py", *(argv or sys.argv[1:])]
    result = harness.environment() | {
        "command": " ".join(command),
        "load_average": os.getloadavg(),
        "rows": [],
    }
    for shape in (shape for group in groups for shape in SHAPES[group]):
        result["rows"] += measure(shape, device, given.repetitions)
    harness.publish(result, table(result["rows"]), given.json)
    if given.markdown:
        harness.write_page(given.markdown, page(result))


if __name__ == "__main__":
    main()
