"""Names, layouts and BatchNorm folding."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.models.layers import Conv, Depthwise, Pointwise
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import efficientnet_lite, resnet
from apanet_jax.weights.load import parameter_shapes
from apanet_jax.weights.mapping import Convolution, Table, convert
from tests import reference_cases


@settings(deadline=None, max_examples=20)
@given(
    form=st.sampled_from(["dense", "pointwise", "depthwise"]),
    biased=st.booleans(),
    normed=st.booleans(),
    epsilon=st.sampled_from([1e-5, 1e-3]),
    seed=st.integers(0, 1000),
)
def test_folded_layers_compute_what_pytorch_s_do(form, biased, normed, epsilon, seed):
    torch.manual_seed(seed)
    layer, size, outputs = {
        "dense": (Conv(6), 3, 6),
        "pointwise": (Pointwise(6), 1, 6),
        "depthwise": (Depthwise(), 3, 4),
    }[form]
    conv = torch.nn.Conv2d(
        4, outputs, size, padding=size // 2, bias=biased, groups=4 if form == "depthwise" else 1
    )
    norm = torch.nn.BatchNorm2d(outputs, eps=epsilon).eval()
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0, 2)
        norm.weight.normal_()
        norm.bias.normal_()
        x = torch.randn(2, 4, 5, 6)
        expected = norm(conv(x)) if normed else conv(x)
    theirs = {"c": conv, "n": norm} if normed else {"c": conv}
    tensors = torch.nn.ModuleDict(theirs).state_dict()
    table = Table("test", [Convolution(("a",), "c", "n" if normed else None)], (), epsilon, biased)
    images = x.permute(0, 2, 3, 1).numpy()
    shapes = {"a": jax.eval_shape(layer.init, jax.random.key(0), images)["params"]}
    parameters = convert({name: t.numpy() for name, t in tensors.items()}, table, shapes)
    ours = layer.apply({"params": parameters["a"]}, images)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


SHAPES = {"a": {"kernel": np.empty((3, 3, 2, 5)), "bias": np.empty(5)}}
TABLE = Table("a test", [Convolution(("a",), "c", "n")], ("fc.*",), 1e-5)


def tensors():
    vectors = {f"n.{name}": np.ones(5) for name in ("weight", "bias", "running_mean")}
    return {"c.weight": np.ones((5, 2, 3, 3)), "n.running_var": np.ones(5), **vectors}


def test_what_is_dropped_may_be_there():
    found = tensors() | {"fc.weight": np.ones(2), "n.num_batches_tracked": np.ones(())}
    parameters = convert(found, TABLE, SHAPES)
    assert parameters["a"]["kernel"].dtype == parameters["a"]["bias"].dtype == np.float32


def test_missing_and_unexpected_names_are_listed():
    found = tensors() | {f"extra{i}": np.ones(1) for i in range(9)}
    del found["n.bias"]
    with pytest.raises(UserError) as raised:
        convert(found, TABLE, SHAPES)
    assert str(raised.value) == (
        "not the weights of a test: missing n.bias; "
        "unexpected extra0, extra1, extra2, extra3 and 5 more"
    )


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match=r"c.weight has the shape \[5, 2, 1, 1\], expected \[5, 2"):
        convert(tensors() | {"c.weight": np.ones((5, 2, 1, 1))}, TABLE, SHAPES)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="c.weight.*not finite"):
        convert(tensors() | {"c.weight": np.full((5, 2, 3, 3), np.nan)}, TABLE, SHAPES)
    with pytest.raises(UserError, match="n.running_var.*negative"):
        convert(tensors() | {"n.running_var": np.full(5, -1.0)}, TABLE, SHAPES)


def foreign(name, stem, naming):
    """Returns zeros under the names that a file of that naming has."""
    shapes = parameter_shapes(name, stem)
    marker = {
        "torchvision": {"conv1.weight": 0},
        "PSPNet": {"conv3.weight": 0},
        "PFENet": {"layer0.0.weight": 0},
    }[naming]
    table = {"resnet50": resnet.resnet50_table, "resnet101": resnet.resnet101_table}[name](
        marker, stem
    )
    found = {}
    for row in table.rows:
        layer = shapes
        for part in row.path:
            layer = layer[part]
        kernel = layer["kernel"].shape
        size = kernel[:2] if len(kernel) == 4 else (1, 1)
        found[f"{row.source}.weight"] = np.broadcast_to(
            np.float32(0), (kernel[-1], kernel[-2], *size)
        )
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{row.norm}.{part}"] = np.zeros(kernel[-1], np.float32)
    return found


@pytest.mark.parametrize(
    "stem,naming", [("plain", "torchvision"), ("deep", "PSPNet"), ("deep", "PFENet")]
)
def test_every_resnet_naming_fills_every_parameter(stem, naming):
    found = foreign("resnet50", stem, naming)
    head = "cls.0.weight" if naming == "PFENet" else "fc.weight"
    shapes = parameter_shapes("resnet50", stem)
    parameters = convert(found | {head: np.zeros(3)}, resnet.resnet50_table(found, stem), shapes)
    assert set(flatten_dict(parameters)) == set(flatten_dict(shapes))
    for leaf, shape in zip(jax.tree.leaves(parameters), jax.tree.leaves(shapes), strict=True):
        assert leaf.shape == shape.shape


def test_a_resnet_of_another_depth_or_stem_is_explained():
    found = foreign("resnet101", "plain", "torchvision")
    with pytest.raises(UserError, match=r"not the weights of ResNet-50.*unexpected layer3\.6"):
        convert(found, resnet.resnet50_table(found, "plain"), parameter_shapes("resnet50", "plain"))
    with pytest.raises(UserError, match="with a plain stem.*expected a deep one.*stem=plain"):
        resnet.resnet101_table(found, "deep")


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_pfenet_s_names_are_all_known(name):
    listed = reference_cases.shapes(name)
    found = foreign(name, "deep", "PFENet")
    assert {key: list(value.shape) for key, value in found.items()}.items() <= listed.items()
    for key in set(listed) - set(found):
        assert key.split(".")[0] + ".*" in resnet.PFENET_HEAD


def test_the_table_of_efficientnet_lite_names_every_parameter():
    rows = efficientnet_lite.lite0_table({}, "deep").rows
    shapes = flatten_dict(parameter_shapes("efficientnet_lite0"))
    assert {path[:-1] for path in shapes} == {row.path for row in rows}
    assert len({row.source for row in rows}) == len(rows) == 1 + 16 * 3 - 1
