"""The expected IoU of a mask, against what it is where everything is known, and by drawing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apanet_jax.inference.quality import expected_iou

SHAPE = (3, 4)


@given(arrays(bool, SHAPE), arrays(bool, SHAPE))
def test_it_is_the_iou_where_the_object_is_known(truth, marked):
    either = (truth | marked).sum()
    expected = (truth & marked).sum() / either if either else 0
    assert expected_iou(truth.astype(np.float32), marked) == pytest.approx(expected)


@given(arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)), arrays(bool, SHAPE))
def test_it_is_a_share(probability, marked):
    assert 0 <= expected_iou(probability, marked) <= 1 + 1e-6


def test_it_is_the_mean_intersection_by_the_mean_union_of_drawn_objects():
    rng = np.random.default_rng(0)
    probability, marked = rng.random(SHAPE), rng.random(SHAPE) < 0.5
    objects = rng.random((20000, *SHAPE)) < probability
    common, either = (objects & marked).sum((1, 2)).mean(), (objects | marked).sum((1, 2)).mean()
    assert expected_iou(probability, marked) == pytest.approx(common / either, rel=0.02)
