"""Matching without training is scored as the runs beside it are."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from apanet_jax.evaluation.protocol import Resizing
from experiments.paper import training_free


def resized(maps, *sides):
    """Maps resized to each side in turn, by PyTorch."""
    found = torch.from_numpy(maps)[:, None]
    for side in sides:
        found = interpolate(found, (side, side), mode="bilinear", align_corners=True)
    return found[:, 0].numpy()


@pytest.mark.parametrize(("through", "sides"), [(None, (31,)), (4, (4, 31))])
def test_maps_are_resized_as_the_run_resizes_logits(batch, tmp_path, monkeypatch, through, sides):
    maps = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
    run = SimpleNamespace(
        data=SimpleNamespace(
            test_count=2,
            test_shots=(1,),
            test_batches=lambda *_: contextlib.nullcontext([batch]),
        ),
        evaluator=SimpleNamespace(resizing=Resizing(through=through)),
        loaded=SimpleNamespace(backbone_parameters={}),
        network=SimpleNamespace(head=SimpleNamespace(centred=False)),
        settings=SimpleNamespace(image_size=4),
    )
    counted = []
    for name, value in (
        ("dataclasses", SimpleNamespace(replace=lambda settings, **_: settings)),
        ("make_run", lambda _: run),
        ("choose", lambda *_: (0.1, ())),
        ("maps", lambda *_: maps),
        ("result", lambda *_: {}),
        ("write_counts", lambda *arguments: counted.append(arguments[-1])),
    ):
        monkeypatch.setattr(training_free, name, value)
    training_free.evaluate(run, "cosine", tmp_path)
    found, truth = resized(maps, *sides) > 0.1, batch["original_label"] == 1
    both = np.stack([(~found & ~truth).sum((1, 2)), (found & truth).sum((1, 2))], -1)
    np.testing.assert_array_equal(counted[0].intersection, both)
