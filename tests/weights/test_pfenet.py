"""Whole checkpoints of PFENet, by its names and shapes."""

import jax
import numpy as np
import pytest
import torch

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import pfenet
from apanet_jax.weights.head import head_shapes, head_table
from apanet_jax.weights.load import parameter_shapes
from apanet_jax.weights.mapping import convert
from tests import reference_cases


def tensors(backbone="resnet50"):
    """Zeros under every name of a PFENet; they take no memory."""
    return {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in reference_cases.shapes(backbone).items()
    }


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "vgg16_bn"])
def test_every_name_has_its_place(backbone):
    below, above = pfenet.convert_checkpoint(tensors(backbone), backbone, pfenet.head())
    assert set(above) == {"reduce_query", "reduce_support", "comparison"}
    assert below.keys() == parameter_shapes(backbone).keys()
    for leaf, shape in zip(
        jax.tree.leaves(above), jax.tree.leaves(head_shapes(pfenet.head(), backbone)), strict=True
    ):
        assert leaf.shape == shape.shape and leaf.dtype == np.float32


@pytest.mark.parametrize(
    ("missing", "unexpected", "says"),
    [
        ("cls.3.bias", None, "compares by fem: missing cls.3.bias"),
        (None, "cls.0.bias", "compares by fem: unexpected cls.0.bias"),
        ("alpha_conv.2.0.weight", "alpha_conv.3.0.weight", "missing .*2.0.*unexpected .*3.0"),
        ("layer3.5.bn2.bias", None, "ResNet-50.*missing layer3.5.bn2.bias"),
        (None, "layer5.0.weight", "ResNet-50.*unexpected layer5.0.weight"),
    ],
)
def test_other_names_are_refused(missing, unexpected, says):
    found = tensors()
    found.pop(missing, None)
    if unexpected:
        found[unexpected] = np.zeros(256, np.float32)
    with pytest.raises(UserError, match=says):
        pfenet.convert_checkpoint(found, "resnet50", pfenet.head())


def test_a_checkpoint_of_the_training_program_is_read(tmp_path):
    found = reference_cases.seeded_tensors("resnet50")
    path = tmp_path / "train_epoch_3.pth"
    state = {f"module.{name}": torch.tensor(array) for name, array in found.items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}, path)
    _, above = pfenet.load_checkpoint(path, "resnet50", pfenet.head())
    expected = convert(
        {name: array for name, array in found.items() if not name.startswith("layer")},
        head_table(pfenet.head()),
        head_shapes(pfenet.head(), "resnet50"),
    )
    jax.tree.map(np.testing.assert_array_equal, above, expected)
    comparison = above["comparison"]
    np.testing.assert_array_equal(
        comparison["merge_1"]["kernel"], found["init_merge.1.0.weight"][:, :, 0, 0].T
    )
    np.testing.assert_array_equal(
        comparison["refine"]["second"]["kernel"], found["res2.2.weight"].transpose(2, 3, 1, 0)
    )
    with pytest.raises(UserError, match=r"train_epoch_3\.pth: not the weights of ResNet-101"):
        pfenet.load_checkpoint(path, "resnet101", pfenet.head())
