"""Heads trained side by side against the same ones trained alone."""

import json

import numpy as np
import pytest

from apanet_jax.data.loader import EpisodeIterator
from apanet_jax.runs import sweep
from apanet_jax.training.checkpoints import Checkpoints
from configs import folder
from tests.small_backbone import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_backbone")]

TINY = (
    f"{OPTIONS},checkpoint_every=2,log_every=2,episodes=6,shots=1,devices=1,validation_episodes=4"
)


@pytest.fixture(scope="module")
def alone(prepared, small_backbone, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    sweep.run_all(config_of_sweep(prepared), workdir, "train")
    return workdir


def config_of_sweep(prepared, options=""):
    config = folder.get_config(f"{TINY},records={prepared},seeds=0+3,folds=0+1,{options}")
    config.variants.half = "agnostic_weight=0.5"
    config.variants.tenth = "agnostic_weight=0.1"
    return config


def runs_below(workdir):
    return sorted(path.parent.relative_to(workdir) for path in workdir.glob("**/metrics.jsonl"))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def last_state(workdir):
    return Checkpoints(workdir / "checkpoints").latest_step()


def assert_alike(workdir, expected):
    names = runs_below(expected)
    assert len(names) == 8 and runs_below(workdir) == names
    for name in names:
        np.testing.assert_allclose(losses(workdir / name), losses(expected / name), rtol=2e-4)
        assert last_state(workdir / name) == 4
    assert len({tuple(losses(expected / name)) for name in names}) == 8


def test_each_ends_as_if_it_were_alone(prepared, alone, tmp_path):
    sweep.run_all(config_of_sweep(prepared, "side_by_side=True"), tmp_path, "train")
    assert_alike(tmp_path, alone)


def test_interrupted_ones_go_on(prepared, alone, tmp_path, monkeypatch):
    taken = {"count": 0}
    original = EpisodeIterator.__next__

    def stopping(self):
        taken["count"] += 1
        # Four streams: in the third step of all.
        if taken["count"] > 10:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeIterator, "__next__", stopping)
        with pytest.raises(KeyboardInterrupt):
            sweep.run_all(config_of_sweep(prepared, "side_by_side=True"), tmp_path, "train")
    assert {last_state(tmp_path / name) for name in runs_below(tmp_path)} == {2}
    # One of them is finished alone, and left as it is by the others.
    half = config_of_sweep(prepared, "folds=0,seeds=0,sweep.variants=half")
    sweep.run_all(half, tmp_path, "train")
    sweep.run_all(config_of_sweep(prepared, "side_by_side=True"), tmp_path, "train")
    assert_alike(tmp_path, alone)


def test_one_seed_and_fold_share_their_batches(prepared, tmp_path):
    options = "seeds=0,folds=0,side_by_side=True,keep=False"
    sweep.run_all(config_of_sweep(prepared, options), tmp_path / "together", "train")
    options = "seeds=0,folds=0,keep=False"
    sweep.run_all(config_of_sweep(prepared, options), tmp_path / "alone", "train")
    for name in runs_below(tmp_path / "alone"):
        np.testing.assert_allclose(
            losses(tmp_path / "together" / name), losses(tmp_path / "alone" / name), rtol=2e-4
        )


def test_different_networks_come_after_one_another(prepared, tmp_path):
    config = config_of_sweep(prepared, "folds=0,side_by_side=True")
    config.variants.tenth = "num_clusters=0"
    results = sweep.run_all(config, tmp_path, "train_and_evaluate")
    assert {rows[0]["num_clusters"] for rows in results.values()} == {0, 3}
    assert len(results) == 4 and all(rows[0]["step"] == 4 for rows in results.values())
