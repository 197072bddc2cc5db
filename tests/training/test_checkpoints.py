"""Checkpoints: what is kept, what comes back, what is refused."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.runtime.devices import data_mesh, replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, damaged_steps
from apanet_jax.training.train_step import TrainState, optimizer, poly_schedule


def state_at(step, seed=0):
    kernel = np.random.default_rng([seed, step]).standard_normal((3, 4)).astype(np.float32)
    parameters = {"layer": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(4)}}
    momentum = optimizer(poly_schedule(0.1, 10)).init(parameters)
    return TrainState(jnp.int32(step), parameters, momentum)


def test_the_latest_and_the_best_are_kept(tmp_path):
    mious = {1: 40.0, 2: None, 3: 55.5, 4: 30.0, 5: None, 6: 55.5, 7: None}
    with Checkpoints(tmp_path / "checkpoints", "settings") as checkpoints:
        assert checkpoints.latest_step() is None and checkpoints.best_step() is None
        for step, miou in mious.items():
            checkpoints.save(state_at(step), {"position": step}, miou)
    with Checkpoints(tmp_path / "checkpoints", "settings") as checkpoints:
        assert checkpoints.latest_step() == 7
        assert checkpoints.best_step() == 3


@pytest.mark.parametrize("devices", [1, 4])
def test_a_state_comes_back_bit_by_bit_on_any_number_of_devices(tmp_path, devices):
    saved = jax.device_put(state_at(5), replicated(data_mesh(2)))
    with Checkpoints(tmp_path / "checkpoints", "settings") as checkpoints:
        checkpoints.save(saved, {"position": 17})
        restored, iterator = checkpoints.restore(5, state_at(0), replicated(data_mesh(devices)))
    assert iterator == {"position": 17}
    assert isinstance(restored, TrainState)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved))
    assert len(restored.parameters["layer"]["kernel"].sharding.device_set) == devices


def test_saving_a_step_again_replaces_it(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", "settings") as checkpoints:
        checkpoints.save(state_at(5), {"position": 1})
        checkpoints.save(state_at(5, seed=1), {"position": 2})
        restored, iterator = checkpoints.restore(5, state_at(0), replicated(data_mesh(1)))
    assert iterator == {"position": 2}
    np.testing.assert_array_equal(
        restored.parameters["layer"]["kernel"], state_at(5, seed=1).parameters["layer"]["kernel"]
    )


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", "settings") as checkpoints:
        checkpoints.save(state_at(5), {"position": 1})
    with Checkpoints(tmp_path / "checkpoints", "others") as checkpoints:
        with pytest.raises(UserError, match="other settings"):
            checkpoints.restore(5, state_at(0), replicated(data_mesh(1)))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_can_be_set_aside(tmp_path, capsys):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, "settings") as checkpoints:
        checkpoints.save(state_at(1), {"position": 1}, 70.0)
        checkpoints.save(state_at(2), {"position": 2}, 80.0)
    flip(next((directory / "2" / "state" / "d").iterdir()))
    with Checkpoints(directory, "settings") as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
    assert "checkpoints/2 is passed over: state/d/" in capsys.readouterr().err
    with Checkpoints(directory, "settings", set_aside=True) as checkpoints:
        assert capsys.readouterr().err.count("\n") == 1
        assert (tmp_path / "damaged" / "2-0").is_dir() and not (directory / "2").exists()
        checkpoints.save(state_at(2), {"position": 2})
        assert checkpoints.latest_step() == 2


COPIED_BY_HALF = {
    "nothing of it": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "without its metadata": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "with metadata cut short": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text("{"),
    "without its data": lambda folder: [p.unlink() for p in folder.glob("state/d/*")],
    "with data cut short": lambda folder: [
        p.write_bytes(p.read_bytes()[:-9]) for p in folder.glob("state/d/*")
    ],
    "without its index": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "without its arrays": lambda folder: shutil.rmtree(folder / "state"),
    "without the arrays' names": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "a file in its place": lambda folder: [shutil.rmtree(folder), folder.write_text("x")],
}


def test_a_checkpoint_that_was_copied_by_half_is_passed_over(tmp_path, capfd):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, "settings") as checkpoints:
        checkpoints.save(state_at(3), {"position": 3})
    whole = shutil.copytree(directory / "3", tmp_path / "whole")
    (whole / "checksums.json").unlink()
    for number, damage in enumerate(COPIED_BY_HALF.values(), 4):
        damage(shutil.copytree(whole, directory / str(number)))
    capfd.readouterr()
    assert damaged_steps(directory) == {*range(4, 4 + len(COPIED_BY_HALF))}
    told = capfd.readouterr().err.splitlines()
    assert len(told) == len(COPIED_BY_HALF) and all("is passed over" in line for line in told)
    with Checkpoints(directory, "settings", set_aside=True) as checkpoints:
        assert checkpoints.latest_step() == 3
        assert checkpoints.restore(3, state_at(0), replicated(data_mesh(1)))[1] == {"position": 3}
    assert len(list((tmp_path / "damaged").iterdir())) == len(COPIED_BY_HALF)
    # What is all there is taken without its checksums too.
    shutil.copytree(whole, directory / "9")
    assert not damaged_steps(directory)


def test_what_cannot_be_written_is_one_line_and_costs_no_earlier_checkpoint(tmp_path):
    directory, before = tmp_path / "checkpoints", resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(UserError, match="step 2 cannot be written .* goes on from step 1"):
        with Checkpoints(directory, "settings") as checkpoints:
            checkpoints.save(state_at(1), {"position": 1})
            # As a disk without space would, the system refuses longer files.
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
            try:
                checkpoints.save(state_at(2), {"position": 2})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Checkpoints(directory, "settings") as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(state_at(2), {"position": 2})
        restored, _ = checkpoints.restore(2, state_at(0), replicated(data_mesh(1)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), state_at(2))
