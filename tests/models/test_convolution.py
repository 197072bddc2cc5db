"""3x3 convolutions, by tiles and directly, against PyTorch's, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apanet_jax.models.convolution import conv3x3, direct, winograd


def case(height, width, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (2, height, width, 4), (3, 3, 4, 5), (2, height, width, 5)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def torch_results(x, kernel, weight, dilation):
    """Returns the convolution, and the gradients of its product with `weight`."""
    tx, tk = torch.tensor(x, requires_grad=True), torch.tensor(kernel, requires_grad=True)
    out = torch.nn.functional.conv2d(
        tx.permute(0, 3, 1, 2), tk.permute(3, 2, 0, 1), padding=dilation, dilation=dilation
    ).permute(0, 2, 3, 1)
    (out * torch.tensor(weight)).sum().backward()
    return out.detach(), tx.grad, tk.grad


SIZES = ((1, 1, 4), (1, 5, 2), (4, 3, 1), (11, 16, 1), (11, 16, 2), (11, 16, 4))
"""Height, width and dilation."""


@pytest.mark.parametrize(
    ("form", "height", "width", "dilation"),
    [(form, *size) for form in (direct, winograd) for size in SIZES]
    + [(conv3x3, *size) for size in (SIZES[2], SIZES[-1])],
)
def test_every_form_and_its_gradients_agree_with_torch(form, height, width, dilation):
    x, kernel, weight = case(height, width)
    run = functools.partial(form, dilation=dilation)

    @jax.jit
    def run_and_gradients(x, kernel):
        out, pull_back = jax.vjp(run, x, kernel)
        return out, *pull_back(weight)

    results = torch_results(x, kernel, weight, dilation)
    for ours, expected in zip(run_and_gradients(x, kernel), results, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_tiles_are_as_exact_as_the_sum_over_many_channels():
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_normal((1, 12, 12, 512)), 0)
    kernel = rng.standard_normal((3, 3, 512, 8))
    exact = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(kernel).permute(3, 2, 0, 1), padding=1
    ).permute(0, 2, 3, 1)
    found = winograd(x.astype(np.float32), kernel.astype(np.float32), dilation=1)
    assert np.abs(found - exact.numpy()).max() < 3e-6 * exact.abs().max()


@pytest.mark.parametrize(
    ("size", "dilation", "dtype", "tiled"),
    [(60, 4, "float32", True), (9, 4, "float32", False), (60, 1, "bfloat16", False)],
)
def test_the_form_is_chosen_by_size_type_and_platform(size, dilation, dtype, tiled):
    operands = jnp.zeros((1, size, size, 4), dtype), jnp.zeros((3, 3, 4, 4), dtype)
    run = jax.jit(functools.partial(conv3x3, dilation=dilation)).trace(*operands)
    assert ("dot_general" in run.lower(lowering_platforms=("cpu",)).as_text()) == tiled
    assert "dot_general" not in run.lower(lowering_platforms=("tpu",)).as_text()
