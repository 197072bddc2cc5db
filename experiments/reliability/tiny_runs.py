"""Runs of seconds, through the commands that users give, and what two of them must share."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from apanet_jax.config import saved
from apanet_jax.config.settings import typed
from apanet_jax.evaluation.results import read_results
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.training.metrics_log import read_metrics
from apanet_jax.weights.load import fingerprint
from apanet_jax.weights.network import make_network
from experiments.harness import ROOT

IMAGES = {"train": 200, "val": 60}
STEPS, EVERY = 48, 6
"""Steps of a run, and of them those from a checkpoint to the next."""

LOOK_EVERY = 0.002
"""Seconds between two looks at what a process has written."""

_LONGEST = 7200.0
_RESTORING = threading.Lock()


class Outcome(NamedTuple):
    """What a run left.

    Attributes:
      step: of the last checkpoint.
      parameters: the SHA-256 of its arrays.
      state: the SHA-256 of everything that a step changes, momentum too.
      position: among the batches.
      losses: (step, loss) of each line of metrics.jsonl.
      results: results.json without the name of the device.
      arrays: the parameters themselves, by path.
    """

    step: int
    parameters: str
    state: str
    position: dict[str, Any]
    losses: list[tuple[int, float]]
    results: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


def prepare_command(records: Path, *, train: int, val: int) -> list[str]:
    """Returns the command that draws small images into `records`."""
    arguments = [f"--train={train}", f"--val={val}", "--size=96", "--min_area=50", "--seed=0"]
    return _command("apanet_jax.prepare", "synthetic", *arguments, f"--output={records}")


def train_command(records: Path, features: Path, workdir: Path, **options: Any) -> list[str]:
    """Returns the command that trains and evaluates in `workdir`.

    Args:
      records: what `prepare_command` wrote.
      features: where features are kept.
      workdir: of the run.
      **options: settings by their last names.
    """
    given = {
        "min_area": 50,
        "image_size": 65,
        "longer_side": 65,
        "channels": 8,
        "steps": STEPS,
        "training.batch_size": 2,
        "checkpoint_every": EVERY,
        "log_every": 2,
        "episodes": 40,
        "evaluation.batch_size": 2,
        "shots": 1,
        "devices": 1,
        "pictures": 0,
        "bundled": 0,
        "data.records": records,
        "features.directory": features,
    } | {name.replace("__", "."): value for name, value in options.items()}
    behind = ",".join(f"{name}={value}" for name, value in given.items())
    return _command(
        "apanet_jax.main", f"--config=configs/folder.py:{behind}", f"--workdir={workdir}"
    )


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def process_environment(compiled: Path, devices: int = 1) -> dict[str, str]:
    """Returns the environment of a run on simulated devices of the CPU.

    Args:
      compiled: where all compiled programs are kept, the quick ones too.
      devices: how many.
    """
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Of several numbers of devices the last one counts.
        "XLA_FLAGS": " ".join(
            [
                os.environ.get("XLA_FLAGS", ""),
                f"--xla_force_host_platform_device_count={devices}",
            ]
        ),
    }


def succeed(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Runs a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=ROOT)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def outcome(workdir: Path) -> Outcome:
    """Returns what a finished run left in its workdir."""
    settings = typed(saved.of_run(workdir))
    network = make_network(settings.backbone, settings.model)
    like = abstract_state(network.head, settings.backbone.name)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with _RESTORING, Checkpoints(workdir / "checkpoints") as checkpoints:
        state, position = checkpoints.restore(checkpoints.latest_step(), like, sharding)
    state = jax.device_get(state)
    leaves = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(state)}
    return Outcome(
        int(state.step),
        fingerprint(state.parameters),
        fingerprint(leaves),
        position,
        [(line["step"], line["loss"]) for line in read_metrics(workdir)],
        [{k: v for k, v in row.items() if k != "device"} for row in read_results(workdir)],
        flatten_dict(state.parameters, sep="/"),
    )


def differing(found: Outcome, expected: Outcome) -> str:
    """Returns what differs between two runs; empty where nothing does."""
    names = [name for name in Outcome._fields if name != "arrays"]
    return ", ".join(f"other {n}" for n in names if getattr(found, n) != getattr(expected, n))


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
        self.environ = process_environment(root / "compiled")
        succeed(self.prepare(self.whole), self.environ)
        self.expected: Outcome | None = None

    def prepare(self, place: Path) -> list[str]:
        """Returns the command that draws the records in `place`."""
        return prepare_command(place / "records", **IMAGES)

    def train(self, place: Path, **options: Any) -> list[str]:
        """Returns the command that makes the run in `place`, on the undisturbed run's features."""
        given = {"records": self.whole / "records", "features": self.whole / "features"} | options
        return train_command(given.pop("records"), given.pop("features"), place / "run", **given)

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


def fingerprint_of(place: Path) -> str:
    """Returns the fingerprint of the records in a place."""
    return json.loads((place / "records" / "index.json").read_text())["fingerprint"]
