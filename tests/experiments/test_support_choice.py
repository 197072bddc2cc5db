"""Mixtures of baseline and APANet: by hand, and a tiny sweep's own counts."""

import numpy as np
import pytest

from experiments.paper.support_choice import RULES, left_out, mixed, soft_iou
from experiments.paper.thresholds import AT_ZERO, THRESHOLDS
from tests.scripts import assert_refused, run_script


def test_mixtures_by_hand():
    margins = np.zeros((2, 3, 1, 2), np.float32)
    margins[0], margins[1] = 2.0, -4.0
    known = np.zeros((len(THRESHOLDS), 2, 3), np.float32)
    known[AT_ZERO] = [[0.6, 0.2, 0.0], [0.2, 0.2, 0.0]]
    known[THRESHOLDS.index(2.0)] = [[0.1, 0.2, 0.0], [0.7, 0.2, 0.0]]
    ratio = np.full((3, 1, 2), 6.0, np.float32)
    found = dict(zip(RULES, np.asarray(mixed(margins, known, ratio))[:, :, 0, 0], strict=True))
    np.testing.assert_allclose(found["mean"], [-1, -1, -1])
    np.testing.assert_allclose(found["chosen"], [2, -4, -4])
    np.testing.assert_allclose(found["weighted"], [0.5, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(found["ratio"], [1, 1, 1])
    np.testing.assert_allclose(found["chosen_ratio"], [4, 1, 1])
    np.testing.assert_allclose(found["threshold"], [-6, -4, -4])


@pytest.mark.parametrize("shot", [1, 3])
def test_a_support_is_asked_for_by_the_others(shot):
    rng = np.random.default_rng(0)
    batch = {
        "support_labels": rng.integers(0, 2, (2, shot, 4, 4)).astype(np.uint8),
        "support_middle": rng.standard_normal((2, shot, 3, 3, 5)).astype(np.float32),
        "query_middle": np.zeros((2, 3, 3, 5), np.float32),
    }
    found = left_out(batch, shot - 1)
    np.testing.assert_array_equal(found["query_middle"], batch["support_middle"][:, -1])
    others = slice(None, -1) if shot > 1 else slice(None)
    for name in ("support_labels", "support_middle"):
        np.testing.assert_array_equal(found[name], batch[name][:, others])


def test_an_iou_of_shares_is_that_of_masks_where_they_are_whole():
    rng = np.random.default_rng(1)
    found, mask = rng.integers(0, 2, (2, 6, 5, 5)).astype(np.float32)
    mask[0] = found[0] = 0
    expected = [
        (a * b).sum() / max(((a + b) > 0).sum(), 1) for a, b in zip(found, mask, strict=True)
    ]
    np.testing.assert_allclose(soft_iou(found, mask), expected, rtol=1e-6)


def test_a_config_without_both_heads_is_refused():
    wrong = run_script("support_choice", "--config=folder:folds=0", "--workdir=x")
    assert_refused(wrong, "the config has no variant apanet, baseline")
