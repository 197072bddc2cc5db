"""The masks of test episodes that are drawn."""

import numpy as np
import pytest

from apanet_jax.evaluation.metrics import count_pixels
from apanet_jax.evaluation.protocol import resize_to_label
from apanet_jax.runs import episode_images
from tests.evaluation.test_embed_once import head_of, run_of

pytestmark = pytest.mark.usefixtures("small_backbone")


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["two_step", "one_step"])
def test_masks_are_drawn_as_they_are_scored_by_one_program_for_all(prepared, resize, monkeypatch):
    traced = []

    def counted(*args):
        traced.append(args)
        return resize_to_label(*args)

    monkeypatch.setattr(episode_images, "resize_to_label", counted)
    run = run_of(prepared, f"resize={resize},devices=1")
    for parameters in (head_of(run, seed) for seed in (0, 1)):
        scored, _ = run.evaluator.count(parameters, 1, 16)
        with run.data.test_batches(1, range(16)) as batches:
            for start, batch in zip((0, 8), batches, strict=True):
                masks = episode_images.predict(run, run.network, parameters, batch)
                drawn = count_pixels(masks, batch["original_label"])
                for ours, expected in zip(drawn, scored, strict=True):
                    # Pixels whose two logits are equal up to the rounding of sums.
                    assert np.abs(ours - expected[start : start + 8]).sum(1).max() <= 4
    assert len(traced) == 1


def test_kept_features_are_embedded_on_all_devices(prepared):
    run = run_of(prepared, "keep=True,devices=4,features.batch_size=6")
    keeper = run.data.keeper
    assert keeper.batch_size == 8
    embedded = keeper.embed(np.zeros((8, 65, 65, 3), np.uint8))
    assert [shard.data.shape[0] for shard in embedded.middle.addressable_shards] == [2] * 4
