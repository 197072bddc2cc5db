"""Scores against sums taken pixel by pixel."""

import numpy as np
import pytest

from apanet_jax.evaluation.metrics import SummedCounts, count_pixels


def _slow_counts(prediction, label):
    intersection, union = [0, 0], [0, 0]
    for p, t in zip(prediction.ravel(), label.ravel(), strict=True):
        if t == 255:
            continue
        for side in (0, 1):
            intersection[side] += int(p == side and t == side)
            union[side] += int(p == side or t == side)
    return intersection, union


def _episodes(count, seed=0):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, 2, (count, 6, 5)).astype(bool)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (count, 6, 5), p=[0.5, 0.3, 0.2])
    return prediction, label, rng.integers(1, 4, count)


def test_counts_agree_with_a_slow_loop():
    prediction, label, _ = _episodes(20)
    counts = count_pixels(prediction, label)
    for i in range(20):
        intersection, union = _slow_counts(prediction[i], label[i])
        assert counts.intersection[i].tolist() == intersection
        assert counts.union[i].tolist() == union


def test_scores_are_ratios_of_sums_not_means_of_ratios():
    prediction, label, class_id = _episodes(40)
    sums = SummedCounts(4)
    sums.add(count_pixels(prediction, label), class_id)
    counts = [_slow_counts(p, t) for p, t in zip(prediction, label, strict=True)]
    expected = {}
    for c in (1, 2, 3):
        mine = [counts[i] for i in range(40) if class_id[i] == c]
        expected[c] = 100 * sum(i[1] for i, _ in mine) / sum(u[1] for _, u in mine)
    scores = sums.scores()
    assert scores.iou_per_class == pytest.approx(expected)
    assert scores.miou == pytest.approx(np.mean(list(expected.values())))
    sides = [sum(i[s] for i, _ in counts) / sum(u[s] for _, u in counts) for s in (0, 1)]
    assert scores.fb_iou == pytest.approx(100 * np.mean(sides))


def test_parts_merge_to_the_whole_and_padding_counts_nowhere():
    prediction, label, class_id = _episodes(12)
    whole, first, second = SummedCounts(3), SummedCounts(3), SummedCounts(3)
    whole.add(count_pixels(prediction, label), class_id)
    first.add(count_pixels(prediction, label), class_id, np.arange(12) < 5)
    second.add(count_pixels(prediction, label), class_id, np.arange(12) >= 5)
    first.merge(second)
    assert first.scores() == whole.scores()


def test_no_episodes_score_zero():
    assert SummedCounts(3).scores() == (0.0, 0.0, {})
