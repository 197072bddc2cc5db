"""What `fault_drill.py` does to a run besides killing it: one function for each fault."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apanet_jax.runtime.errors import UserError
from experiments.reliability.tiny_runs import (
    ROOT,
    Outcome,
    differing,
    environment,
    outcome,
    prepare_command,
    succeed,
    train_command,
)

PICTURES = {"train": 200, "val": 60}
STEPS = 48
EVERY = 6
LOOK_EVERY = 0.002
_LONGEST = 7200.0


class Row(NamedTuple):
    """What came of one fault.

    Attributes:
      fault: what was done.
      when: at which moment.
      said: the line that the command said.
      ended: how it ended, and how the same command ended when it was given again.
      wrong: what is not as it should be; empty where nothing is.
    """

    fault: str
    when: str
    said: str
    ended: str
    wrong: str


class Drill:
    """An undisturbed run, and places to disturb others in.

    Attributes:
      root: everything is below it.
      environ: of every process.
      expected: what the undisturbed run left.
    """

    def __init__(self, root: Path):
        """Prepares the records; `undisturbed` makes the rest."""
        self.root, self.whole = root, root / "whole"
        self.environ = environment(root / "compiled")
        succeed(self.prepare(self.whole), self.environ)
        self.expected: Outcome | None = None

    def prepare(self, place: Path) -> list[str]:
        """Returns the command that draws the records in `place`."""
        return prepare_command(place / "records", **PICTURES)

    def train(self, place: Path, **options: Any) -> list[str]:
        """Returns the command that makes the run in `place`, on the undisturbed run's features."""
        given = {"records": self.whole / "records", "features": self.whole / "features"} | options
        return train_command(
            given.pop("records"),
            given.pop("features"),
            place / "run",
            steps=STEPS,
            checkpoint_every=EVERY,
            **given,
        )

    def start(self, command: Sequence[str], **given: Any) -> subprocess.Popen:
        """Starts a process."""
        pipe = subprocess.PIPE
        environ = given.pop("env", self.environ)
        return subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=environ, cwd=ROOT, **given
        )

    def equal(self, place: Path) -> str:
        """Returns what differs from the undisturbed run."""
        return differing(outcome(place / "run"), self.expected)

    def again(self, place: Path, command: Sequence[str], **given: Any) -> tuple[str, str, str]:
        """Gives a command (again); returns how it ended, what it said, and what differs."""
        status, said = finished(self.start(command, **given))
        if status:
            return f"ends with {status}", said, f"ends with {status}: {said}"
        return "ends with 0", said, self.equal(place)


def finished(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for a process; returns its status and the line that tells what it met."""
    try:
        out, err = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    lines = [*err.splitlines(), *out.splitlines()]
    for sign in ("error: ", "stopped", "warning: ", "going on", "are written", "Traceback"):
        for line in lines:
            if sign in line and "UserWarning" not in line:
                if sign == "Traceback":
                    return process.returncode, f"Traceback … {err.strip().splitlines()[-1]}"
                return process.returncode, line.strip()
    return process.returncode, ""


def wait_for(sign: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Waits for a sign; returns whether it was seen while the process lived."""
    until = time.monotonic() + _LONGEST
    while process.poll() is None and time.monotonic() < until:
        if sign():
            return True
        time.sleep(LOOK_EVERY)
    return False


def steps_of(place: Path) -> list[int]:
    """Returns the steps of the whole checkpoints of a run, with their checksums."""
    files = (place / "run" / "checkpoints").glob("*/checksums.json")
    return sorted(int(path.parent.name) for path in files if path.parent.name.isdigit())


def _refused(drill, place, command, fault, when, mend=lambda: None, status=2, said="", **given):
    """Has a command meet a fault that it has to refuse, mends it, and gives the command again."""
    return _then(
        drill,
        place,
        command,
        fault,
        when,
        finished(drill.start(command, **given)),
        mend=mend,
        status=status,
        said=said,
    )


def _then(drill, place, command, fault, when, met, *, mend=lambda: None, status=2, said=""):
    ended, line = met
    mend()
    last, _, wrong = drill.again(place, command)
    if ended != status:
        wrong = f"ended with {ended} where {status} was expected"
    elif said not in line:
        wrong = f"no word of {said!r}"
    return Row(fault, when, line, f"{ended}; again: {last}", wrong)


def sigterm(drill: Drill, place: Path, rng) -> Row:
    """SIGTERM in training lets the step end and saves a checkpoint."""
    command, step = drill.train(place), rng.choice(range(EVERY, STEPS, EVERY))
    process = drill.start(command)
    wait_for(lambda: step in steps_of(place), process)
    process.send_signal(signal.SIGTERM)
    when = f"behind the checkpoint of step {step}"
    return _then(
        drill,
        place,
        command,
        "SIGTERM",
        when,
        finished(process),
        status=143,
        said="which is saved in",
    )


def sigterm_in_evaluation(drill: Drill, place: Path, rng) -> Row:
    """SIGTERM in the evaluation ends it at once."""
    command = drill.train(place)
    process = drill.start(command)
    wait_for(lambda: STEPS in steps_of(place), process)
    time.sleep(rng.uniform(0, 0.5))
    process.send_signal(signal.SIGTERM)
    return _then(
        drill,
        place,
        command,
        "SIGTERM",
        "in evaluation",
        finished(process),
        status=143,
        said="stopped by the user",
    )


def _short_files(most_bytes: int, command: Sequence[str]) -> list[str]:
    """Returns the command where no file can become longer, as on a disk without space."""
    limit = (
        "import os, resource, sys; n = int(sys.argv[1]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", limit, str(most_bytes), *command]


def full_disk_in_prepare(drill: Drill, place: Path, _rng) -> Row:
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


def fingerprint_of(place: Path) -> str:
    """Returns the fingerprint of the records in a place."""
    return json.loads((place / "records" / "index.json").read_text())["fingerprint"]


def full_disk_in_features(drill: Drill, place: Path, _rng) -> Row:
    """No space for the kept features."""
    command = drill.train(place, features=place / "features")
    status = finished(drill.start(_short_files(500_000, command)))
    return _then(
        drill,
        place,
        command,
        "disk full",
        "files up to 500 kB, keeping features",
        status,
        said="features could not be kept",
    )


def full_disk_in_checkpoint(drill: Drill, place: Path, _rng) -> Row:
    """No space for a checkpoint, when there is one already."""
    command = drill.train(place)
    process = drill.start(command)
    wait_for(lambda: EVERY in steps_of(place), process)
    process.send_signal(signal.SIGTERM)
    finished(process)
    met = finished(drill.start(_short_files(15_000, command)))
    when = f"files up to 15 kB, behind step {max(steps_of(place))}"
    return _then(drill, place, command, "disk full", when, met, said="cannot be written")


def _damaged_checkpoint(drill: Drill, place: Path, fault: str, damage) -> Row:
    shutil.copytree(drill.whole / "run", place / "run")
    last = place / "run" / "checkpoints" / str(STEPS)
    chosen = max((p for p in last.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damage(chosen)
    ended, said, wrong = drill.again(place, drill.train(place))
    if not wrong and "is set aside" not in said:
        wrong = "no word of it"
    return Row(fault, f"the last of two checkpoints, step {STEPS}", said, ended, wrong)


def cut_checkpoint(drill: Drill, place: Path, rng) -> Row:
    """A checkpoint that is cut short."""

    def damage(path: Path):
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])

    return _damaged_checkpoint(drill, place, "a checkpoint cut short", damage)


def flipped_checkpoint(drill: Drill, place: Path, rng) -> Row:
    """A checkpoint with a bit flipped."""

    def damage(path: Path):
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    return _damaged_checkpoint(drill, place, "a checkpoint with a bit flipped", damage)


def deleted_records(drill: Drill, place: Path, _rng) -> Row:
    """An array_record file that is gone."""
    records = shutil.copytree(drill.whole / "records", place / "records")
    (path,) = records.rglob("*-val.array_record*")
    aside = path.rename(place / "aside")
    command = drill.train(place, records=records)
    return _refused(
        drill,
        place,
        command,
        "a deleted array_record",
        "of the test pictures",
        mend=lambda: aside.rename(path),
        said="cannot be read",
    )


def damaged_features(drill: Drill, place: Path, rng) -> Row:
    """A file of kept features that is cut short."""
    features = shutil.copytree(drill.whole / "features", place / "features")
    path = rng.choice(sorted(features.glob("*/middle.npy")))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ended, said, wrong = drill.again(place, drill.train(place, features=features))
    if not wrong and "made anew" not in said:
        wrong = "no word of it"
    return Row("kept features cut short", "before the start", said, ended, wrong)


def damaged_compiled(drill: Drill, place: Path, _rng) -> Row:
    """Compiled programs that are cut short in their cache."""
    compiled = shutil.copytree(drill.root / "compiled", place / "compiled")
    for path in compiled.iterdir():
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ended, said, wrong = drill.again(place, drill.train(place), env=environment(compiled))
    return Row("every compiled program cut short", "before the start", said, ended, wrong)


def cut_metrics(drill: Drill, place: Path, _rng) -> Row:
    """A metrics.jsonl whose last line is cut short."""
    shutil.copytree(drill.whole / "run", place / "run")
    shutil.rmtree(place / "run" / "checkpoints" / str(STEPS))
    path = place / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    ended, said, wrong = drill.again(place, drill.train(place))
    return Row("metrics.jsonl cut short", "in its last line", said, ended, wrong)


def _workers_of(process: subprocess.Popen) -> list[int]:
    """Returns the processes below a process that load pictures."""
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


def killed_worker(drill: Drill, place: Path, _rng) -> Row:
    """A worker that loads pictures gets SIGKILL."""
    command = drill.train(place, workers=2)
    process = drill.start(command)
    wait_for(lambda: EVERY in steps_of(place), process)
    workers = _workers_of(process)
    for worker in workers[:1]:
        os.kill(worker, signal.SIGKILL)
    when = f"one of {len(workers)}, behind the checkpoint of step {EVERY}"
    return _then(
        drill,
        place,
        command,
        "a loader worker killed",
        when,
        finished(process),
        said="exit code -9",
    )


def orphans(drill: Drill, place: Path, _rng) -> Row:
    """SIGKILL of the run, whose workers have to end too."""
    command = drill.train(place, workers=2)
    process = drill.start(command)
    wait_for(lambda: EVERY in steps_of(place), process)
    workers = _workers_of(process)
    process.kill()
    finished(process)
    until = time.monotonic() + 30
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


def read_only(drill: Drill, place: Path, _rng) -> Row:
    """A workdir that cannot be written to."""
    command, workdir = drill.train(place), place / "run"
    workdir.mkdir(parents=True)
    workdir.chmod(0o555)
    # Root may write anywhere, unless it gives that up.
    capabilities = "-dac_override,-dac_read_search"
    plain = [] if os.geteuid() else ["setpriv", f"--bounding-set={capabilities}", "--"]
    met = finished(drill.start([*plain, *command]))
    return _then(
        drill,
        place,
        command,
        "a read-only workdir",
        "before the start",
        met,
        mend=lambda: workdir.chmod(0o755),
        said="cannot be written",
    )


def two_runs(drill: Drill, place: Path, _rng) -> Row:
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


def not_a_number(drill: Drill, place: Path, _rng) -> Row:
    """Features that become NaN, and with them the loss."""
    features = shutil.copytree(drill.whole / "features", place / "features")
    command = drill.train(place, features=features)
    process = drill.start(command)
    wait_for(lambda: EVERY in steps_of(place), process)
    process.send_signal(signal.SIGTERM)
    finished(process)
    good = max(steps_of(place))
    for path in features.glob("*/middle.npy"):
        np.load(path, mmap_mode="r+")[:] = np.nan

    def mend():
        shutil.copytree(drill.whole / "features", features, dirs_exist_ok=True)

    met = finished(drill.start(command))
    row = _then(
        drill,
        place,
        command,
        "a loss that becomes NaN",
        f"behind step {good}",
        met,
        mend=mend,
        said=f"checkpoint is of step {good}",
    )
    return row if "learning rate" in row.said else row._replace(wrong="no learning rate named")


FAULTS: Mapping[str, Callable[[Drill, Path, Any], Row]] = {
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


def meet(drill: Drill, name: str, rng) -> Row:
    """Does what the fault `name` says, in a place of its own."""
    place = drill.root / name
    place.mkdir()
    try:
        return FAULTS[name](drill, place, rng)
    except (UserError, subprocess.TimeoutExpired, OSError) as error:
        reason = " ".join(str(error).split())
        return Row(name, "", "", "", f"the drill itself failed: {reason[-300:]}")
