"""What `fault_drill.py` does to a run besides killing it: one function for each fault."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from apanet_jax.runtime.errors import UserError
from experiments.reliability.tiny_runs import (
    EVERY,
    STEPS,
    Drill,
    fingerprint_of,
    finished,
    process_environment,
    steps_of,
    wait_for,
)


class Row(NamedTuple):
    """The result of one fault.

    Attributes:
      fault: what was done.
      when: at which moment.
      said: the line that the command printed about it.
      ended: how it ended, and how the same command ended when it was given again.
      wrong: what is not as it should be; empty where nothing is.
    """

    fault: str
    when: str
    said: str
    ended: str
    wrong: str


def _then_again(
    drill: Drill,
    place: Path,
    command: Sequence[str],
    what: tuple[str, str],
    met: tuple[int, str],
    said: str = "",
    *,
    status: int = 2,
    mend: Callable[[], object] = lambda: None,
) -> Row:
    """Mends a fault and gives the command again; returns the row.

    Args:
      drill: with the run that the result has to equal.
      place: of the disturbed run.
      command: that met the fault.
      what: the row's fault and when.
      met: the status that the command ended with, and what it said.
      said: what it has to say.
      status: what it has to end with.
      mend: takes the fault away.
    """
    ended, line = met
    mend()
    last, _, wrong = drill.again(place, command)
    if ended != status:
        wrong = f"ended with {ended} where {status} was expected"
    elif said not in line:
        wrong = f"no word of {said!r}"
    return Row(*what, line, f"{ended}; again: {last}", wrong)


def _warned(
    drill: Drill, place: Path, what: tuple[str, str], said: str = "", *, env=None, **options
) -> Row:
    """Runs with a fault that is no reason to end: a warning at most, and an equal result."""
    command = drill.train(place, **options)
    ended, line, wrong = drill.again(place, command, env=env or drill.environ)
    return Row(*what, line, ended, wrong or ("" if said in line else "no word of it"))


def _short_files(most_bytes: int, command: Sequence[str]) -> list[str]:
    """Returns the command where no file can become longer, as on a full disk."""
    limit = (
        "import os, resource, sys; n = int(sys.argv[1]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", limit, str(most_bytes), *command]


def _stop_behind(drill: Drill, place: Path, command: Sequence[str], step: int) -> tuple[int, str]:
    """Runs a command until a checkpoint is written, and sends it SIGTERM."""
    process = drill.start(command)
    wait_for(lambda: step in steps_of(place), process)
    process.send_signal(signal.SIGTERM)
    return finished(process)


def sigterm(drill: Drill, place: Path, rng: Random) -> Row:
    """SIGTERM in training lets the step end and saves a checkpoint."""
    command, step = drill.train(place), rng.choice(range(EVERY, STEPS, EVERY))
    met = _stop_behind(drill, place, command, step)
    what = "SIGTERM", f"behind the checkpoint of step {step}"
    return _then_again(drill, place, command, what, met, "which is saved in", status=143)


def sigterm_in_evaluation(drill: Drill, place: Path, rng: Random) -> Row:
    """SIGTERM in the evaluation ends it at once."""
    command = drill.train(place)
    process = drill.start(command)
    wait_for(lambda: STEPS in steps_of(place), process)
    time.sleep(rng.uniform(0, 0.5))
    process.send_signal(signal.SIGTERM)
    what, met = ("SIGTERM", "in evaluation"), finished(process)
    return _then_again(drill, place, command, what, met, "stopped by the user", status=143)


def full_disk_in_prepare(drill: Drill, place: Path, _rng: Random) -> Row:
    """No space for the records."""
    command = drill.prepare(place)
    status, said = finished(drill.start(_short_files(20_000, command)))
    left = sorted(p.name for p in place.iterdir()) if place.exists() else []
    again, _ = finished(drill.start(command))
    wrong = "" if status == 2 else f"ended with {status}"
    if not wrong and fingerprint_of(place) != fingerprint_of(drill.whole):
        wrong = "other records"
    when = f"files up to 20 kB, in prepare (left: {', '.join(left) or 'nothing'})"
    return Row("disk full", when, said, f"{status}; again: ends with {again}", wrong)


def full_disk_in_features(drill: Drill, place: Path, _rng: Random) -> Row:
    """No space for the kept features."""
    command = drill.train(place, features=place / "features")
    met = finished(drill.start(_short_files(500_000, command)))
    what = "disk full", "files up to 500 kB, keeping features"
    return _then_again(drill, place, command, what, met, "features could not be kept")


def full_disk_in_checkpoint(drill: Drill, place: Path, _rng: Random) -> Row:
    """No space for a checkpoint, when there is one already."""
    command = drill.train(place)
    _stop_behind(drill, place, command, EVERY)
    met = finished(drill.start(_short_files(15_000, command)))
    what = "disk full", f"files up to 15 kB, behind step {max(steps_of(place))}"
    return _then_again(drill, place, command, what, met, "cannot be written")


def _damaged_checkpoint(drill: Drill, place: Path, fault: str, damage) -> Row:
    shutil.copytree(drill.whole / "run", place / "run")
    last = place / "run" / "checkpoints" / str(STEPS)
    path = max((p for p in last.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(damage(path.read_bytes()))
    what = fault, f"the last of two checkpoints, step {STEPS}"
    return _warned(drill, place, what, "is set aside")


def cut_checkpoint(drill: Drill, place: Path, rng: Random) -> Row:
    """A checkpoint that is cut short."""
    return _damaged_checkpoint(
        drill,
        place,
        "a checkpoint cut short",
        lambda content: content[: rng.randrange(len(content))],
    )


def flipped_checkpoint(drill: Drill, place: Path, rng: Random) -> Row:
    """A checkpoint with a bit flipped."""

    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return _damaged_checkpoint(drill, place, "a checkpoint with a bit flipped", damage)


def deleted_records(drill: Drill, place: Path, _rng: Random) -> Row:
    """An array_record file that is gone."""
    records = shutil.copytree(drill.whole / "records", place / "records")
    (path,) = records.rglob("*-val.array_record*")
    aside = path.rename(place / "aside")
    command = drill.train(place, records=records)
    what, met = ("a deleted array_record", "of the test images"), finished(drill.start(command))
    mend = lambda: aside.rename(path)  # noqa: E731
    return _then_again(drill, place, command, what, met, "cannot be read", mend=mend)


def damaged_features(drill: Drill, place: Path, rng: Random) -> Row:
    """A file of kept features that is cut short."""
    features = shutil.copytree(drill.whole / "features", place / "features")
    _cut_short(rng.choice(sorted(features.glob("*/middle.npy"))))
    what = "kept features cut short", "before the start"
    return _warned(drill, place, what, "are damaged", features=features)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged_compiled(drill: Drill, place: Path, _rng: Random) -> Row:
    """Compiled programs that are cut short in their cache."""
    compiled = shutil.copytree(drill.root / "compiled", place / "compiled")
    for path in filter(Path.is_file, compiled.iterdir()):
        _cut_short(path)
    what = "every compiled program cut short", "before the start"
    return _warned(drill, place, what, env=process_environment(compiled))


def cut_metrics(drill: Drill, place: Path, _rng: Random) -> Row:
    """A metrics.jsonl whose last line is cut short."""
    shutil.copytree(drill.whole / "run", place / "run")
    shutil.rmtree(place / "run" / "checkpoints" / str(STEPS))
    path = place / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    return _warned(drill, place, ("metrics.jsonl cut short", "in its last line"))


def _workers_of(process: subprocess.Popen) -> list[int]:
    """Returns the processes below a process that load images."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


def _with_workers(
    drill: Drill, place: Path, command: Sequence[str]
) -> tuple[subprocess.Popen, list[int]]:
    """Starts a run; returns it behind its first checkpoint, and its workers."""
    process = drill.start(command)
    wait_for(lambda: EVERY in steps_of(place), process)
    return process, _workers_of(process)


def killed_worker(drill: Drill, place: Path, _rng: Random) -> Row:
    """A worker that loads images gets SIGKILL."""
    command = drill.train(place, workers=2)
    process, workers = _with_workers(drill, place, command)
    for worker in workers[:1]:
        os.kill(worker, signal.SIGKILL)
    when = f"one of {len(workers)}, behind the checkpoint of step {EVERY}"
    what, met = ("a loader worker killed", when), finished(process)
    return _then_again(drill, place, command, what, met, "exit code -9")


def orphans(drill: Drill, place: Path, _rng: Random) -> Row:
    """SIGKILL of the run, whose workers have to end too."""
    command = drill.train(place, workers=2)
    process, workers = _with_workers(drill, place, command)
    process.kill()
    finished(process)
    until = time.monotonic() + 300
    while any(map(_lives, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    left = sum(map(_lives, workers))
    ended, said, wrong = drill.again(place, command)
    if not workers or left:
        wrong = f"{left} of {len(workers)} workers live on"
    when = f"with {len(workers)} workers, behind the checkpoint of step {EVERY}"
    return Row("SIGKILL", when, said, f"no worker is left; again: {ended}", wrong)


def _lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read_only(drill: Drill, place: Path, _rng: Random) -> Row:
    """A workdir that cannot be written to."""
    command, workdir = drill.train(place), place / "run"
    workdir.mkdir(parents=True)
    workdir.chmod(0o555)
    # Root may write anywhere, unless it gives that up.
    capabilities = "-dac_override,-dac_read_search"
    plain = [] if os.geteuid() else ["setpriv", f"--bounding-set={capabilities}", "--"]
    what = "a read-only workdir", "before the start"
    met = finished(drill.start([*plain, *command]))
    mend = lambda: workdir.chmod(0o755)  # noqa: E731
    return _then_again(drill, place, command, what, met, "cannot be written", mend=mend)


def two_runs(drill: Drill, place: Path, _rng: Random) -> Row:
    """A second run on the same workdir."""
    command = drill.train(place)
    first = drill.start(command)
    wait_for(lambda: (place / "run" / "metrics.jsonl").exists(), first)
    first.send_signal(signal.SIGSTOP)
    status, said = finished(drill.start(command))
    first.send_signal(signal.SIGCONT)
    last, _ = finished(first)
    wrong = drill.equal(place) if not last else f"the first ends with {last}"
    if status != 2 or "is in use by process" not in said:
        wrong = f"the second ends with {status}"
    ended = f"{status}; the first ends with {last}"
    return Row("a second run on the workdir", "in training", said, ended, wrong)


def not_a_number(drill: Drill, place: Path, _rng: Random) -> Row:
    """Features that become NaN, and with them the loss."""
    features = shutil.copytree(drill.whole / "features", place / "features")
    command = drill.train(place, features=features)
    _stop_behind(drill, place, command, EVERY)
    good = max(steps_of(place))
    for path in features.glob("*/middle.npy"):
        np.load(path, mmap_mode="r+")[:] = np.nan

    def mend():
        shutil.copytree(drill.whole / "features", features, dirs_exist_ok=True)

    what, met = ("a loss that becomes NaN", f"behind step {good}"), finished(drill.start(command))
    said = f"checkpoint is of step {good}"
    row = _then_again(drill, place, command, what, met, said, mend=mend)
    return row if "learning rate" in row.said else row._replace(wrong="no learning rate named")


FAULTS: Mapping[str, Callable[[Drill, Path, Random], Row]] = {
    function.__name__: function
    for function in (
        sigterm,
        sigterm_in_evaluation,
        full_disk_in_prepare,
        full_disk_in_features,
        full_disk_in_checkpoint,
        cut_checkpoint,
        flipped_checkpoint,
        deleted_records,
        damaged_features,
        damaged_compiled,
        cut_metrics,
        killed_worker,
        orphans,
        read_only,
        two_runs,
        not_a_number,
    )
}


def meet(drill: Drill, name: str, rng: Random) -> Row:
    """Does what the fault `name` says, in a place of its own."""
    place = drill.root / name
    place.mkdir()
    try:
        return FAULTS[name](drill, place, rng)
    except (UserError, subprocess.TimeoutExpired, OSError) as error:
        reason = " ".join(str(error).split())
        return Row(name, "", "", "", f"the drill itself failed: {reason[-300:]}")
