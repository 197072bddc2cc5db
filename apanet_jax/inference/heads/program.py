"""A trained network as one file that runs without this package: docs/shipping.md.

The file holds backbone, head and threshold as StableHLO, in the format of `jax.export`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.export import Exported, deserialize, export, symbolic_shape
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, Float, UInt8

from apanet_jax.data.sources.synthetic import draw_image
from apanet_jax.data.transforms import binary_label, fit_square
from apanet_jax.inference.matching.geometry import Grid, pixel_weights
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.runtime.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")

_BATCHES = (1, 3)
# Of the largest log-odds: in float32 rounding is far below it, in half precision near it.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}

Find = Callable[
    [
        UInt8[Array, "batch size size 3"],
        UInt8[Array, "shots size size 3"],
        UInt8[Array, "shots size size"],
    ],
    Float[Array, "batch size size"],
]


class Difference(NamedTuple):
    """How far a program's answers are from the network's.

    Attributes:
      largest: difference of two log-odds.
      magnitude: of the largest log-odds of the network.
      images: how many were compared.
    """

    largest: float
    magnitude: float
    images: int


def make_program(matcher: HeadMatcher, shots: int) -> bytes:
    """Returns the program that finds what supports show: queries, supports, masks -> log-odds.

    Its arguments are uint8: `[batch, size, size, 3]` queries and `[shots, size, size, 3]` supports
    (RGB, fitted into the square by `fit_square`), and `[shots, size, size]` masks (1: the class, 0:
    background, 255: ignored or outside). It returns float32 `[batch, size, size]`: at each pixel
    the log-odds that it is of the class, if the image shows it. The batch may be of any size.

    Args:
      matcher: which holds the network and the size of the square.
      shots: number of supports.
    """
    (batch,) = symbolic_shape("batch")
    size = matcher.grid.size
    shapes = [
        jax.ShapeDtypeStruct(shape, np.uint8)
        for shape in ((batch, size, size, 3), (shots, size, size, 3), (shots, size, size))
    ]
    # What a check would say in debugging cannot be written; nothing is checked here.
    checked = checkify.checkify(log_odds(matcher, shots), errors=frozenset())
    traced = jax.make_jaxpr(lambda *arguments: checked(*arguments)[1])(*shapes)
    # A backbone's last block has most of the parameters, and many heads do not use it.
    needed, _ = dce_jaxpr(traced.jaxpr, [True], instantiate=True)
    run = jaxpr_as_fun(ClosedJaxpr(needed, traced.consts))

    def find(queries, supports, masks):
        return run(queries, supports, masks)[0]

    return bytes(export(jax.jit(find), platforms=PLATFORMS)(*shapes).serialize())


def log_odds(matcher: HeadMatcher, shots: int) -> Find:
    """Returns the function that `make_program` writes, to be traced by jax."""
    network = matcher.network
    parameters, backbone_parameters = jax.device_get(
        (matcher.parameters, matcher.backbone_parameters)
    )
    head, decision = network.head.for_inference, matcher.calibrated(shots)

    def find(queries, supports, masks):
        # Together, so that the file holds the backbone once.
        features = network.features(backbone_parameters, jnp.concatenate([queries, supports]))
        count = queries.shape[0]
        of_queries = jax.tree.map(lambda x: x[:count], features)
        of_supports = jax.tree.map(lambda x: x[count:], features)
        query, support = network.of_images(of_queries), network.of_images(of_supports)
        if support.high is not None and network.masked_support:
            masked = network.masked_last_block(backbone_parameters, of_supports.block4, masks)
            support = support._replace(high=masked)

        def compare(query):
            # What depends on the supports alone is computed once for the whole batch.
            one, supports = jax.tree.map(lambda x: x[None], (query, support))
            return head.apply({"params": parameters}, one, supports, masks[None]).logits[0]

        logits = jax.vmap(compare)(query)
        margins = logits[..., 1] - logits[..., 0]
        weights = pixel_weights(matcher.grid)
        pixels = jnp.einsum("yr,brc,xc->byx", weights, margins, weights, precision="highest")
        return (pixels - decision.threshold) / decision.scale

    return find


def check_program(program: bytes, matcher: HeadMatcher, shots: int) -> Difference:
    """Compares a program with the network that it was made of, on drawn images.

    Args:
      program: what `make_program` returned.
      matcher: of the network, which computes the same step by step.
      shots: number of supports.

    Raises:
      UserError: they differ by more than rounding.
    """
    find = jax.jit(deserialize(bytearray(program)).call)
    queries, _ = _drawn(max(_BATCHES), matcher.grid, first=0)
    supports, masks = _drawn(shots, matcher.grid, first=max(_BATCHES))
    learned = matcher.learn([matcher.embed(x) for x in supports], list(masks))
    margins = np.stack([np.asarray(matcher.margins(matcher.embed(x), learned)) for x in queries])
    decision, weights = matcher.calibrated(shots), pixel_weights(matcher.grid)
    expected = (weights @ margins @ weights.T - decision.threshold) / decision.scale
    largest = 0.0
    for batch in _BATCHES:
        found = np.asarray(find(queries[:batch], supports, masks))
        largest = max(largest, float(np.abs(found - expected[:batch]).max()))
    magnitude = float(np.abs(expected).max())
    bound = _TOLERANCES[jnp.dtype(matcher.network.backbone.dtype).name] * max(magnitude, 1.0)
    if not largest <= bound:
        raise UserError(
            f"the program's log-odds differ from the network's by {largest:.2g}, expected at most "
            f"{bound:.2g}: nothing was written; tell us the versions of jax and jaxlib"
        )
    return Difference(largest, magnitude, max(_BATCHES) + shots)


def describe(program: bytes, matcher: HeadMatcher, shots: int, difference: Difference) -> str:
    """Returns what a model card says of a program, as Markdown."""
    read: Exported = deserialize(bytearray(program))
    size, decision = matcher.grid.size, matcher.calibrated(shots)
    return _SECTION.format(
        megabytes=len(program) / 1e6,
        platforms=", ".join(read.platforms),
        jax=jax.__version__,
        convention=read.calling_convention_version,
        size=size,
        shots=shots,
        grid=matcher.grid,
        threshold=decision.threshold,
        scale=decision.scale,
        difference=difference,
        batches=" and ".join(map(str, _BATCHES)),
    )


_SECTION = """\
`program.jax` ({megabytes:.1f} MB) is the whole network, backbone and head, for {platforms}. It
needs jax, flatbuffers and NumPy, and not apanet_jax. It was written by jax {jax} (calling
convention {convention}).

```python
from jax import export

find = export.deserialize(bytearray(open("program.jax", "rb").read())).call
log_odds = find(queries, supports, masks)  # above 0: the class
```

| | shape | |
|---|---|---|
| `queries` | uint8 [batch, {size}, {size}, 3] | RGB; any number |
| `supports` | uint8 [{shots}, {size}, {size}, 3] | RGB |
| `masks` | uint8 [{shots}, {size}, {size}] | 1: the class, 0: background, 255: ignored or outside |
| `log_odds` | float32 [batch, {size}, {size}] | 1 / (1 + exp(-x)) is the probability |

An image lies in the top left of its square, its longer side {size} pixels, both sides rounded
down to a multiple of {grid.stride}; outside of it are zeros. The log-odds are the head's margin
less {threshold:g}, over {scale:g}.

When it was written, its log-odds were compared with the network's on {difference.images} drawn
images, in batches of {batches}: the largest difference was {difference.largest:.1e}, of log-odds
up to {difference.magnitude:.1f}.
"""


def _drawn(
    count: int, grid: Grid, *, first: int
) -> tuple[UInt8[np.ndarray, "count size size 3"], UInt8[np.ndarray, "count size size"]]:
    """Draws wide images of one class, each with its label, and fits them into squares."""
    squares, size = [], grid.size
    for number in range(first, first + count):
        image, label = draw_image(np.random.default_rng(number), [0], size)
        wide = slice(size // 8, size - size // 8)
        squares.append(fit_square(image[wide], binary_label(label[wide], 1), size, grid.stride))
    images, labels = zip(*squares, strict=True)
    return np.stack(images), np.stack(labels)
