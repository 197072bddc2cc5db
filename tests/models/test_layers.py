"""Convolutions against PyTorch's, and padding against XLA's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.models.layers import (
    Conv,
    Depthwise,
    Pointwise,
    depthwise_convolution,
    grouped_convolution,
    pads,
    shifted_products,
)


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def channels_last(x):
    return np.moveaxis(x.numpy(), 1, -1)


def torch_padded(x, borders):
    (top, bottom), (left, right) = borders
    return torch.nn.functional.pad(channels_first(x), (left, right, top, bottom))


@settings(deadline=None)
@given(
    length=st.integers(1, 60),
    size=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 4),
)
def test_same_padding_is_the_one_of_tensorflow_and_xla(length, size, stride, dilation):
    window = dilation * (size - 1) + 1
    ours = pads((length, 5), size, stride, dilation, "same")[0]
    assert ours == jax.lax.padtype_to_pads((length,), (window,), (stride,), "SAME")[0]


def test_symmetric_padding_does_not_depend_on_the_size():
    assert pads((10, 11), 3, 2, 4, "symmetric") == ((4, 4), (4, 4))
    assert pads((224, 225), 7, 2, 1, "symmetric") == ((3, 3), (3, 3))


@pytest.mark.parametrize("form", [shifted_products, grouped_convolution])
@settings(deadline=None, max_examples=12)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_both_depthwise_forms_agree_with_pytorch(form, height, width, size, stride, dilation, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, height, width, 3), np.float32)
    kernel = rng.standard_normal((size, size, 3), np.float32)
    borders = pads((height, width), size, stride, dilation, "same")
    options = {"borders": borders, "stride": stride, "dilation": dilation}
    ours = jax.jit(functools.partial(form, **options))(x, kernel)
    theirs = torch.nn.functional.conv2d(
        torch_padded(x, borders),
        torch.from_numpy(kernel.transpose(2, 0, 1)[:, None].copy()),
        stride=stride,
        dilation=dilation,
        groups=3,
    )
    np.testing.assert_allclose(ours, channels_last(theirs), atol=1e-5)


def test_depthwise_form_is_chosen_by_platform_in_one_program():
    convolve = functools.partial(depthwise_convolution, borders=((1, 1), (1, 1)))
    arguments = (
        jax.ShapeDtypeStruct((1, 9, 9, 4), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 4), jnp.float32),
    )
    lowered = {
        platform: jax.export.export(jax.jit(convolve), platforms=[platform])(
            *arguments
        ).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert "stablehlo.convolution" not in lowered["cpu"]
    assert "feature_group_count = 4" in lowered["cuda"]
    assert "feature_group_count = 4" in lowered["tpu"]


@pytest.mark.parametrize("size,stride,dilation", [(3, 1, 1), (3, 2, 1), (3, 1, 4), (7, 2, 1)])
def test_conv_agrees_with_pytorch(size, stride, dilation):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 13, 3), np.float32)
    kernel = rng.standard_normal((size, size, 3, 5), np.float32)
    bias = rng.standard_normal(5, np.float32)
    layer = Conv(5, size, stride, dilation)
    ours = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    theirs = torch.nn.functional.conv2d(
        channels_first(x),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(bias),
        stride,
        dilation * (size // 2),
        dilation,
    )
    np.testing.assert_allclose(ours, channels_last(theirs), atol=1e-4)


@pytest.mark.parametrize("height,stride", [(8, 1), (8, 2), (9, 2)])
def test_pointwise_agrees_with_pytorch(height, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, 7, 3), np.float32)
    kernel, bias = rng.standard_normal((3, 5), np.float32), rng.standard_normal(5, np.float32)
    ours = Pointwise(5, stride).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    theirs = torch.nn.functional.conv2d(
        channels_first(x),
        torch.from_numpy(kernel.T[:, :, None, None].copy()),
        torch.from_numpy(bias),
        stride,
    )
    np.testing.assert_allclose(ours, channels_last(theirs), atol=1e-5)


@pytest.mark.parametrize("layer", [Conv(4), Pointwise(4), Depthwise()])
def test_half_precision_layers_keep_float32_parameters(layer):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 6, 4)), jnp.float32)
    half = layer.copy(dtype=jnp.bfloat16)
    variables = half.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    result = half.apply(variables, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        result.astype(jnp.float32), layer.apply(variables, x), rtol=0.02, atol=0.05
    )
