"""Scoring at the original label's resolution, against PyTorch's resizing."""

import numpy as np
import pytest
import torch

from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.evaluation.protocol import Resizing, count_episodes, resize_to_label, score


def _episodes(sizes, side, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(sizes), 6, 6)).astype(np.float32)
    labels = np.full((len(sizes), side, side), 255, np.uint8)
    for label, (h, w) in zip(labels, sizes, strict=True):
        label[:h, :w] = rng.choice(np.array([0, 1, 255], np.uint8), (h, w), p=[0.6, 0.3, 0.1])
    return logits, labels, np.array([max(size) for size in sizes], np.int32)


SIZES = [(33, 20), (17, 32), (40, 40), (1, 1), (13, 7)]


def test_each_map_is_resized_to_its_own_square():
    logits, _, sides = _episodes(SIZES, 48)
    resized = resize_to_label(logits, sides, 48)
    for i, side in enumerate(sides):
        expected = torch.nn.functional.interpolate(
            torch.tensor(logits[i][None, None]),
            (int(side), int(side)),
            mode="bilinear",
            align_corners=True,
        )
        np.testing.assert_allclose(resized[i, :side, :side], expected[0, 0], atol=1e-5)


def test_counts_agree_with_the_protocol_by_hand():
    logits, labels, sides = _episodes(SIZES, 48)
    counts = score(logits, labels, sides)
    for i, (h, w) in enumerate(SIZES):
        side = int(sides[i])
        resized = torch.nn.functional.interpolate(
            torch.tensor(logits[i][None, None]), (side, side), mode="bilinear", align_corners=True
        )[0, 0].numpy()
        found, truth = resized[:h, :w] > 0, labels[i, :h, :w] == 1
        valid = labels[i, :h, :w] != 255
        assert counts.intersection[i, 1] == (found & truth & valid).sum()
        assert counts.union[i, 1] == ((found | truth) & valid).sum()
        assert counts.intersection[i, 0] == (~found & ~truth & valid).sum()
        assert counts.union[i, 0] == ((~found | ~truth) & valid).sum()


def test_episodes_are_counted_in_order_and_the_padding_is_left_out():
    rng = np.random.default_rng(1)
    batches = [
        {
            "class_id": np.array([1, 2], np.int32),
            "valid": np.array([True, step < 2]),
            "intersection": rng.integers(0, 50, (2, 2)),
            "union": rng.integers(50, 90, (2, 2)),
        }
        for step in range(3)
    ]
    counts, class_id = count_episodes(
        lambda b: EpisodeCounts(b["intersection"], b["union"]), batches, episodes=5
    )
    assert class_id.tolist() == [1, 2, 1, 2, 1]
    expected = np.concatenate([b["union"] for b in batches])[:5]
    np.testing.assert_array_equal(counts.union, expected)
    assert counts.intersection.tolist()[4] == batches[2]["intersection"][0].tolist()


@pytest.mark.parametrize("side", [40, 61])
def test_maps_of_patches_are_resized_between_the_patches_centres(side):
    logits = np.random.default_rng(3).normal(size=(1, 5, 5)).astype(np.float32)
    ours = resize_to_label(logits, np.array([side]), 64, Resizing(centred=True))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size=(side, side), mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(ours[:, :side, :side], theirs, atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_two_steps_are_the_references(centred):
    logits = np.random.default_rng(4).normal(size=(1, 5, 5)).astype(np.float32)
    ours = resize_to_label(logits, np.array([61]), 64, Resizing(centred, through=37))
    theirs = torch.from_numpy(logits)[None]
    for size in (37, 61):
        theirs = torch.nn.functional.interpolate(
            theirs, size=(size, size), mode="bilinear", align_corners=not centred
        )
    np.testing.assert_allclose(ours[:, :61, :61], theirs[0], atol=1e-5)
