"""Bilinear resizing, corners aligned, and adaptive average pooling against PyTorch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.models.resize import (
    adaptive_average_pool,
    bilinear_matrix,
    resize_bilinear,
)


# Each shape is compiled.
@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(1, 17)] * 4), st.integers(0, 1000))
def test_agrees_with_torch(sizes, seed):
    h, w, new_h, new_w = sizes
    x = np.random.default_rng(seed).standard_normal((2, h, w, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), (new_h, new_w), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(
        resize_bilinear(x, (new_h, new_w)), expected.permute(0, 2, 3, 1), atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(29, 225), (60, 473), (5, 1), (1, 7), (225, 29)])
def test_every_output_is_a_mean_of_inputs(sizes):
    matrix = bilinear_matrix(*sizes)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_two_steps_over_a_grid_that_holds_the_cells_equal_one():
    # 473 = 59 * 8 + 1 samples hold the 60 cells: the reference's detour over them changes nothing.
    x = np.random.default_rng(0).standard_normal((1, 60, 60, 1)).astype(np.float32)
    detour = resize_bilinear(resize_bilinear(x, (473, 473)), (500, 500))
    np.testing.assert_allclose(resize_bilinear(x, (500, 500)), detour, atol=1e-4)


# Each shape is compiled.
@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(1, 17)] * 4), st.integers(0, 1000))
def test_adaptive_pooling_agrees_with_torch(sizes, seed):
    h, w, new_h, new_w = sizes
    x = np.random.default_rng(seed).standard_normal((2, h, w, 3)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(
        torch.tensor(x).permute(0, 3, 1, 2), (new_h, new_w)
    )
    np.testing.assert_allclose(
        adaptive_average_pool(x, (new_h, new_w)), expected.permute(0, 2, 3, 1), atol=1e-5
    )


@pytest.mark.parametrize("size", [(7, 5), (28, 40), (3, 2)])
def test_centres_of_equal_parts_are_resized_as_pytorch_does(size):
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)
    ours = resize_bilinear(x, size, centred=True)
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(
        channels_first, size=size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)
