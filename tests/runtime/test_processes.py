"""Runs of several local processes on simulated devices, against the same run of one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from apanet_jax.data.loader import EpisodeIterator, batches
from apanet_jax.runs.run import make_run
from apanet_jax.runtime import processes
from apanet_jax.runtime.compilation import make_deterministic
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.loop import train
from configs import folder
from tests.small_backbone import OPTIONS

pytestmark = pytest.mark.usefixtures("small_backbone")

LOSSES_AGREE_TO = 1e-5
"""Relative: devices sum what belongs to a batch in another order."""

TINY = (
    f"{OPTIONS},steps=6,training.batch_size=4,checkpoint_every=2,log_every=1,episodes=7,shots=1+2,"
    "validation_episodes=5,every=4,pictures=1,views=1,write_episodes=True,compilation_cache="
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(prepared, workdir, processes=1, devices=1, options="", arguments=()):
    """Starts the processes of one run, each with `devices` simulated devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # The last one counts.
        "XLA_FLAGS": (
            f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        ),
    }
    command = [
        sys.executable,
        "-m",
        "tests.small_backbone",
        "train",
        f"--config=configs/folder.py:{TINY},records={prepared},{options}",
        f"--workdir={workdir}",
        *arguments,
    ]
    port, started = free_port(), []
    for process in range(processes):
        several = [
            f"--coordinator=localhost:{port}",
            f"--processes={processes}",
            f"--process={process}",
        ]
        started.append(
            subprocess.Popen(
                command + several * (processes > 1),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def outcome(started, status=0):
    """Returns what each process printed, once all have ended with `status`."""
    try:
        ended = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == status, errors[-3000:]
    return ended


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_same_losses(ours, theirs):
    assert losses(ours).keys() == losses(theirs).keys()
    for step, loss in losses(ours).items():
        assert loss == pytest.approx(losses(theirs)[step], rel=LOSSES_AGREE_TO)


def counts(workdir):
    rows = json.loads((workdir / "results.json").read_text())
    return {(row["checkpoint"], row["shot"]): row["counts"] for row in rows}


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    outcome(start(prepared, workdir))
    return workdir


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_devices(prepared, tmp_path, monkeypatch):
    def run_on(devices):
        options = f"steps=6,training.batch_size=8,evaluation.batch_size=8,every=0,devices={devices}"
        return make_run(folder.get_config(f"{TINY},records={prepared},{options}"))

    whole = train(run_on(1).task(), tmp_path / "whole").parameters
    original = EpisodeIterator.__next__
    for devices, last in ((8, 2), (4, 4)):

        def stopping(self, last=last):
            if self.state()["position"] == last:
                raise KeyboardInterrupt
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(EpisodeIterator, "__next__", stopping)
            with pytest.raises(KeyboardInterrupt):
                train(run_on(devices).task(), tmp_path / "parts")
    train(run_on(1).task(), tmp_path / "parts")
    assert_same_losses(tmp_path / "parts", tmp_path / "whole")
    for devices in (2, 8):
        for ours, theirs in zip(
            run_on(devices).evaluator.count(whole, 1, 7)[0],
            run_on(1).evaluator.count(whole, 1, 7)[0],
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_together_make_the_run_of_one(prepared, alone, tmp_path, processes, devices):
    workdir = tmp_path / "run"
    printed = outcome(start(prepared, workdir, processes, devices))
    assert ["1-shot mIoU" in out for out, _ in printed] == [True] + [False] * (processes - 1)
    assert_same_losses(workdir, alone)
    for name in ("best", "last"):
        for shot in (1, 2):
            file = f"episodes/{name}_{shot}shot.jsonl"
            ours, theirs = (
                [json.loads(line) for line in (where / file).read_text().splitlines()]
                for where in (workdir, alone)
            )
            assert len(ours) == 7
            for mine, other in zip(ours, theirs, strict=True):
                assert mine["query"] == other["query"]
                # A pixel may fall to the other side where both sides are equal up to rounding.
                for key in ("intersection", "union"):
                    assert np.abs(np.subtract(mine[key], other[key])).max() <= 2
    # The same heads are scored to the same counts, whoever scores them.
    again = tmp_path / "again"
    (again / "checkpoints").parent.mkdir()
    (again / "checkpoints").symlink_to(workdir / "checkpoints")
    outcome(start(prepared, again, arguments=["--mode=evaluate"]))
    assert counts(again) == counts(workdir)


@pytest.mark.slow
def test_a_run_of_two_processes_that_one_signal_stops_goes_on_with_one(prepared, alone, tmp_path):
    workdir = tmp_path / "run"
    options = "steps=6,checkpoint_every=100,every=0"
    started = start(prepared, workdir, 2, 1, options, ["--mode=train"])
    end = time.monotonic() + 500
    while not (workdir / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    # The first step is being compiled.
    time.sleep(1)
    started[1].send_signal(signal.SIGTERM)
    printed = outcome(started, 128 + signal.SIGTERM)
    assert all("is saved in" in errors for _, errors in printed)
    kept = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert len(kept) == 1
    (one,) = outcome(start(prepared, workdir, 1, 1, options, ["--mode=train"]))
    assert f"going on from step {kept[0]} of 6" in one[0]
    assert_same_losses(workdir, alone)


def test_pieces_of_a_batch_make_it_up():
    def load(number):
        return {"number": np.int32(number)}

    whole = batches(load, count=None, batch_size=6, start=2)
    pieces = [
        batches(load, count=None, batch_size=6, start=2, process=process, processes=3)
        for process in range(3)
    ]
    for _ in range(3):
        found = np.concatenate([next(piece)["number"] for piece in pieces])
        np.testing.assert_array_equal(found, next(whole)["number"])


def test_determinism_is_asked_of_xla_once_and_a_cpu_says_nothing(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    for _ in range(2):
        make_deterministic()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags == ["--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true"]
    command = [sys.executable, "-c", "import jax; print(jax.numpy.ones(3).sum())"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.0\n", "")


def test_one_process_shares_with_nobody():
    assert processes.is_leader() and not processes.several()
    assert processes.share(5) == range(5)
    np.testing.assert_array_equal(processes.gathered(np.arange(5), 5), np.arange(5))
    assert processes.any_asked(None) is None and processes.any_asked(15) == 15


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, "here:1", 2, None), "all three are needed"),
        ((None, "here", 2, 0), "expected HOST:PORT"),
        ((None, "here:1", 2, 2), "numbered from 0 to 1"),
        ((None, "here:1", 2, -1), "numbered from 0 to 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(UserError, match=says), processes.session(*arguments):
        pass


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--process=1", "--processes=2"], "does not answer"),
        (["--process=0", "--processes=2"], "not all processes have come together"),
    ],
)
def test_who_does_not_come_is_told_in_one_line(arguments, says, tmp_path):
    command = [sys.executable, "-m", "apanet_jax.main", "--join_timeout=2"]
    command.append("--config=configs/folder.py")
    command += [f"--coordinator=localhost:{free_port()}", f"--workdir={tmp_path}", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1
