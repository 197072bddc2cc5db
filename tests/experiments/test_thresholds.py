"""Thresholds are counted as the runs themselves are scored."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from apanet_jax.evaluation.protocol import Resizing
from experiments.paper import thresholds


@pytest.mark.parametrize("through", [None, 4])
def test_logits_are_resized_as_the_run_resizes_them(batch, monkeypatch, through):
    logits = np.random.default_rng(0).standard_normal((2, 3, 3, 2)).astype(np.float32)
    run = SimpleNamespace(
        data=SimpleNamespace(
            test_count=2,
            test_batches=lambda *_: contextlib.nullcontext([batch]),
            augmentation=SimpleNamespace(size=4),
        ),
        loaded=SimpleNamespace(backbone_parameters={}),
        records=SimpleNamespace(class_names=["cat"]),
        evaluator=SimpleNamespace(resizing=Resizing(through=through)),
    )

    class Head:
        """A network whose logits are known, less what the head's one parameter says."""

        head = SimpleNamespace(centred=False)

        def __call__(self, head, backbone, batch):
            return SimpleNamespace(logits=logits + head)

    (sums,) = thresholds.count(run, Head(), np.zeros(1, np.float32), 1, 2)
    difference = thresholds.resize_to_label(
        logits[..., 1] - logits[..., 0], batch["original_side"], 31, Resizing(through=through)
    )
    found = np.asarray(difference) > 0
    truth = batch["original_label"] == 1
    expected = [truth.sum(), found.sum(), (found & truth).sum(), truth.size]
    np.testing.assert_array_equal(sums["cat"][thresholds.THRESHOLDS.index(0.0)], expected)
