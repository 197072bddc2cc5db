"""What befalls a running job: signals, a second start, damaged files, a full disk, dead workers."""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from apanet_jax.config.saved import of_run
from apanet_jax.data.loader import EpisodeIterator, batches
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.atomic_files import write_bytes, write_json, writing
from apanet_jax.runtime.errors import Stopped, UserError, main_guard
from apanet_jax.runtime.workdir_lock import HOLDER, LOCK, sole_use
from apanet_jax.training.checkpoints import Checkpoints
from apanet_jax.training.loop import train
from configs import folder
from tests import trees
from tests.small_backbone import OPTIONS

pytestmark = pytest.mark.usefixtures("small_backbone")

TINY = f"{OPTIONS},checkpoint_every=2,log_every=2,episodes=4,shots=1,devices=1"
HOLDING = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
open(sys.argv[2], "w").write("process 17 on there")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def run(prepared, small_backbone):
    run = make_run(folder.get_config(f"{TINY},records={prepared}"))
    run.data.keeper.of_training(run.records.split("train"))
    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The workdir of an undisturbed training, and its final state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(run.task(), workdir)


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of the undisturbed workdir."""
    return shutil.copytree(whole[0], tmp_path / "run")


@pytest.fixture(autouse=True)
def heard():
    """Has SIGINT heard where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_same(state, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(x["step"], x["loss"]) for x in map(json.loads, lines)]


def send_at(batch, number, monkeypatch, times=1):
    """Has the process receive a signal while it asks for a batch of the training."""
    taken = {"count": 0}
    original = EpisodeIterator.__next__

    def signalling(self):
        taken["count"] += 1
        if taken["count"] == batch:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(EpisodeIterator, "__next__", signalling)


@contextlib.contextmanager
def full_disk(most_bytes):
    """Lets no file become longer than this, as a disk without space would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_lets_the_step_end_and_leaves_a_checkpoint(
    run, whole, tmp_path, monkeypatch, number, status
):
    with monkeypatch.context() as patch:
        send_at(3, number, patch)
        with pytest.raises(Stopped, match=r"behind step 3 of 4, which is saved in .* goes on"):
            train(run.task(), tmp_path)
        handler = signal.getsignal(signal.SIGTERM)
        assert handler == signal.SIG_DFL or handler is None
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 3
    assert_same(train(run.task(), tmp_path), whole[1])
    assert losses(tmp_path) == losses(whole[0])


def test_the_second_signal_ends_at_once(run, tmp_path, monkeypatch):
    send_at(3, signal.SIGTERM, monkeypatch, times=2)
    with pytest.raises(Stopped, match="by the user"):
        train(run.task(), tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_tells_so_in_one_line(capsys, number, status):
    @main_guard
    def command():
        os.kill(os.getpid(), number)
        threading.Event().wait(5)

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == status
    assert capsys.readouterr().err == "stopped by the user\n"


def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost(capsys):
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.01)

    @main_guard
    def command():
        Deleted()
        for _ in range(500):
            threading.Event().wait(0.01)

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped by the user\n"


def test_what_the_system_refuses_is_one_line_of_a_command(capsys):
    @main_guard
    def command():
        open("/nowhere/at/all", "w")

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: /nowhere/at/all: No such file or directory\n"


def test_a_workdir_has_one_process_at_a_time(run, tmp_path):
    held = [sys.executable, "-c", HOLDING, str(tmp_path / LOCK), str(tmp_path / HOLDER)]
    with subprocess.Popen(
        held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by process 17 on there") as refused:
            train(run.task(), tmp_path)
        assert "\n" not in str(refused.value)
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, HOLDER}
        process.kill()
    with sole_use(tmp_path), sole_use(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / HOLDER).read_text()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip, os.unlink], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_newest_good_checkpoint_is_taken(run, whole, workdir, capsys, damage, which):
    files = [p for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file()]
    chosen = {"largest": max, "smallest": min}[which](files, key=lambda p: p.stat().st_size)
    damage(chosen)
    capsys.readouterr()
    state = train(run.task(), workdir)
    printed = capsys.readouterr()
    warnings = [line for line in printed.err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "checkpoints/4 is set aside" in warnings[0]
    assert chosen.name in warnings[0] and "going on from step 2 of 4" in printed.out
    assert_same(state, whole[1])
    assert losses(workdir) == losses(whole[0])
    assert (workdir / "damaged" / "4-0").is_dir()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 4
    assert not capsys.readouterr().err


def test_evaluation_passes_over_a_damaged_checkpoint(run, workdir, capsys):
    flip(max((workdir / "checkpoints" / "4" / "state" / "d").iterdir()))
    (row,) = sweep.run_all(of_run(workdir), workdir, "evaluate")["run"]
    assert row["step"] == 2 and "checkpoints/4 is passed over" in capsys.readouterr().err
    assert (workdir / "checkpoints" / "4").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line_of_warning(tmp_path, capsys, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with sole_use(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "without locks" in told


def test_a_full_disk_leaves_the_checkpoints_from_before(run, whole, tmp_path):
    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        send_at(2, signal.SIGTERM, patch)
        train(run.task(), tmp_path)
    with full_disk(5000):
        with pytest.raises(UserError, match="checkpoint of step 4 cannot be written") as refused:
            train(run.task(), tmp_path)
    assert "\n" not in str(refused.value) and "goes on from step 2" in str(refused.value)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 2
    assert_same(train(run.task(), tmp_path), whole[1])
    assert losses(tmp_path) == losses(whole[0])


def test_a_full_disk_leaves_the_files_from_before(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [1, 2, 3])
    before = path.read_text()
    with full_disk(100):
        for write in (
            lambda: write_bytes(path, bytes(2000)),
            lambda: write_json(path, ["x" * 2000]),
            lambda: writing_much(path),
        ):
            with pytest.raises(UserError, match="results.json cannot be written: File too large"):
                write()
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_no_records(tmp_path):
    source = FolderSource(trees.folder_tree(tmp_path / "mine"))
    with full_disk(5000):
        with pytest.raises(UserError, match="not be written to .*records: File too large") as said:
            write_records(source, tmp_path / "records")
    assert "\n" not in str(said.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    write_records(source, tmp_path / "records")


def test_preparing_that_was_killed_at_its_very_end_is_done(tmp_path, monkeypatch):
    source = FolderSource(trees.folder_tree(tmp_path / "mine"))
    directory, removed = tmp_path / "records", shutil.rmtree

    def killed(path, **given):
        if directory.exists():
            raise KeyboardInterrupt
        removed(path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            write_records(source, directory)
    before = open_records(directory)
    report = write_records(source, directory)
    assert report.pictures == {"train": 16, "val": 12} and not report.bad
    assert open_records(directory) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "records"]
    with pytest.raises(UserError, match="is there already"):
        write_records(source, directory)


def writing_much(path):
    with writing(path) as file:
        file.write("x" * 2000)


def test_metrics_that_cannot_be_written_are_one_line(run, workdir):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl cannot be written"):
        train(run.task(), workdir)


@pytest.mark.parametrize("place", ["/proc/apanet_jax", "/dev/null/run"])
def test_a_workdir_that_cannot_be_written_is_refused_in_one_line(run, place):
    with pytest.raises(UserError, match=f"{place}/{LOCK} cannot be written: ") as refused:
        train(run.task(), Path(place))
    assert "\n" not in str(refused.value)


def test_lines_of_metrics_that_are_no_metrics_are_left_out(run, whole, workdir):
    with (workdir / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"loss": 2}\n"x"\n\xff\xfe\n{"step": ')
    train(run.task(), workdir)
    assert len(losses(workdir)) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_file_that_is_gone_is_one_line(prepared, tmp_path, workers):
    copy = shutil.copytree(prepared, tmp_path / "records")
    next(copy.rglob("*-train.array_record*")).unlink()
    config = folder.get_config(f"{TINY},records={copy},keep=False,masked_support=False")
    config.workers = workers
    with pytest.raises(UserError, match="of train in .* cannot be read") as refused:
        with make_run(config).data.training_batches(0) as iterator:
            next(iterator)
    assert "\n" not in str(refused.value) and "apanet_jax.prepare" in str(refused.value)


def element(number):
    return {"number": np.int32(number)}


def test_a_killed_worker_is_one_line_and_the_next_start_goes_on():
    with batches(element, count=None, batch_size=2, workers=1) as iterator:
        first = [next(iterator)["number"].tolist() for _ in range(3)]
        # Until its buffer is full: of one that dies while it writes a batch, grain waits for the
        # rest of it.
        time.sleep(1)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="loading batch .* exit code -9") as refused:
            for _ in range(100):
                next(iterator)
        position = iterator.state()["position"]
    assert first == [[0, 1], [2, 3], [4, 5]] and "\n" not in str(refused.value)
    with batches(element, count=None, batch_size=2, start=position) as iterator:
        assert next(iterator)["number"].tolist() == [2 * position, 2 * position + 1]


@pytest.mark.parametrize("damage", ["cut", "gone", "progress"])
def test_damaged_features_are_made_anew(run, capsys, damage):
    kept = run.data.keeper.of_training(run.records.split("train"))
    before = {name: np.load(kept.directory / f"{name}.npy") for name in kept.maps}
    if damage == "progress":
        (kept.directory / "progress.json").write_text('{"vie')
    elif damage == "gone":
        (kept.directory / "label.npy").unlink()
    else:
        cut_short(kept.directory / "middle.npy")
    run.data.keeper.of_training(run.records.split("train"))
    assert "features in" in capsys.readouterr().err
    for name, array in before.items():
        np.testing.assert_array_equal(np.load(kept.directory / f"{name}.npy"), array)
