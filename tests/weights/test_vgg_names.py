"""Names of VGG-16's weights in different files."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import vgg
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import convert
from apanet_jax.weights.resnet import PFENET_HEAD
from tests import reference_cases

MARKERS = {"torchvision": "features.0.weight", "PFENet": "layer0.0.weight"}
# Where torchvision's `features` have their convolutions.
INDICES = {
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg16_bn": [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
}


def table(name, naming):
    second = MARKERS[naming].replace(".0.", ".1.")
    marker = {MARKERS[naming]: 0} | ({second: 0} if name == "vgg16_bn" else {})
    return TABLES[name](marker, "deep")


def foreign(name, naming):
    """Returns zeros under the names that a file of that naming has."""
    shapes = parameter_shapes(name)
    found = {}
    for row in table(name, naming).rows:
        (layer,) = row.path
        height, width, inputs, outputs = shapes[layer]["kernel"].shape
        weight = np.broadcast_to(np.float32(0), (outputs, inputs, height, width))
        found |= {f"{row.source}.weight": weight, f"{row.source}.bias": np.zeros(outputs)}
        if row.norm is not None:
            for part in ("weight", "bias", "running_mean", "running_var"):
                found[f"{row.norm}.{part}"] = np.zeros(outputs)
    return found


@pytest.mark.parametrize("name", INDICES)
def test_the_tables_name_torchvision_s_convolutions_in_order(name):
    rows = table(name, "torchvision").rows
    assert [row.source for row in rows] == [f"features.{i}" for i in INDICES[name]]
    norms = [f"features.{i + 1}" if name == "vgg16_bn" else None for i in INDICES[name]]
    assert [row.norm for row in rows] == norms


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("naming", MARKERS)
def test_every_naming_fills_every_parameter(name, naming):
    found = foreign(name, naming)
    others = (
        ("cls.0.weight", "init_merge.0.0.weight")
        if naming == "PFENet"
        else ("classifier.6.bias", "pre_logits.fc1.weight", "head.fc.weight")
    )
    shapes = parameter_shapes(name)
    dropped = {other: np.zeros(3) for other in others}
    parameters = convert(found | dropped, TABLES[name](found, "deep"), shapes)
    assert {k: v.shape for k, v in flatten_dict(parameters).items()} == {
        k: v.shape for k, v in flatten_dict(shapes).items()
    }


@pytest.mark.parametrize("naming", MARKERS)
def test_files_that_are_not_whole_or_hold_more_are_refused(naming):
    found = foreign("vgg16_bn", naming)
    gone = next(name for name in found if name.endswith("running_var"))
    rest = {name: value for name, value in found.items() if name != gone}
    extra = {"features.43.weight": np.zeros(1)}
    with pytest.raises(UserError, match=f"missing {gone}; unexpected features.43.weight"):
        convert(rest | extra, vgg.vgg16_bn_table(found, "deep"), parameter_shapes("vgg16_bn"))


@pytest.mark.parametrize("naming", MARKERS)
def test_the_other_variant_is_explained(naming):
    with pytest.raises(UserError, match="VGG-16 with BatchNorm.*choose the backbone vgg16_bn"):
        vgg.vgg16_table(foreign("vgg16_bn", naming), "deep")
    with pytest.raises(UserError, match="VGG-16 without BatchNorm.*choose the backbone vgg16$"):
        vgg.vgg16_bn_table(foreign("vgg16", naming), "deep")


def test_weights_of_another_network_are_refused():
    with pytest.raises(UserError, match="not the weights of VGG-16 without.*missing features.0"):
        convert(
            {"conv1.weight": np.zeros((64, 3, 7, 7))},
            vgg.vgg16_table({}, "deep"),
            parameter_shapes("vgg16"),
        )


def test_pfenet_s_names_are_all_known():
    listed = reference_cases.shapes("vgg16_bn")
    found = foreign("vgg16_bn", "PFENet")
    assert {key: list(value.shape) for key, value in found.items()}.items() <= listed.items()
    for key in set(listed) - set(found):
        assert key.split(".")[0] + ".*" in PFENET_HEAD
