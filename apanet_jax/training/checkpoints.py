"""Checkpoints of a run: the newest ones, to go on from, and the best one on validation."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tensorstore as ts
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from apanet_jax.models.apanet import APANet
from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import cannot_write, move, write_json
from apanet_jax.runtime.errors import UserError
from apanet_jax.training import train_step
from apanet_jax.training.train_step import TrainState
from apanet_jax.weights.head import head_shapes

KEEP_LATEST = 2
CHECKSUMS = "checksums.json"
"""In each checkpoint: the SHA-256 of every file in it. It is written last, and copies need not keep
the order: without it, all of a checkpoint's arrays are read before it is taken for one."""
_METADATA = "_CHECKPOINT_METADATA"
_STATE_METADATA = ("state/_METADATA", "state/_sharding")


class Checkpoints:
    """The checkpoints of one run, in one directory; a context manager.

    A checkpoint is named by its step and holds the training state, the data iterator's state and a
    fingerprint of the settings that the run depends on. The latest `KEEP_LATEST` are kept, and the
    one with the highest validation mIoU. One that is cut short or altered is passed over, with a
    line of warning.
    """

    def __init__(self, directory: Path, fingerprint: str | None = None, *, set_aside: bool = False):
        """Opens the checkpoints under `directory`, which is made where it is missing.

        Args:
          directory: where they are.
          fingerprint: of the settings; a checkpoint of other settings is refused. None: to read
            them whatever their settings.
          set_aside: whether damaged ones are moved to a folder `damaged` beside the directory, so
            that their steps can be saved again; otherwise they stay and are passed over.

        Raises:
          UserError: the directory cannot be made, or a damaged checkpoint cannot be moved.
        """
        if processes.is_leader():
            with cannot_write(directory):
                Path(directory).mkdir(parents=True, exist_ok=True)
            if set_aside:
                _set_damaged_aside(Path(directory))
        processes.barrier("the checkpoints' folder is there")
        policies = ocp.training.preservation_policies
        self._fingerprint = fingerprint
        self._directory = Path(directory)
        self._damaged = set() if set_aside else damaged_steps(self._directory)
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(directory).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(KEEP_LATEST), _KeepBest()]
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self._checkpointer.close()
        except Exception:
            # What could not be saved is raised once more here.
            if kind is None:
                raise

    def save(
        self, state: TrainState, iterator: Mapping[str, Any], miou: float | None = None
    ) -> None:
        """Saves a checkpoint, in place of one of the same step; all processes together.

        Args:
          state: the training state.
          iterator: the data iterator's state (JSON).
          miou: in percent, on the validation episodes, where they were evaluated.

        Raises:
          UserError: it cannot be written; those from before stay.
        """
        step = int(state.step)
        try:
            self._checkpointer.save(
                step,
                state._asdict(),
                overwrite=True,
                metrics=None if miou is None else {"miou": float(miou)},
                custom_metadata={
                    "fingerprint": self._fingerprint,
                    "iterator": json.dumps(dict(iterator)),
                },
            )
        except Exception as error:  # Orbax and tensorstore raise nearly anything for a full disk.
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self._directory}: "
                f"{_reason(error)}; free some space and give the same command again, it goes on "
                f"from step {self.latest_step() or 0}"
            ) from error
        folder = self._directory / str(step)
        if processes.is_leader():
            write_json(folder / CHECKSUMS, _checksums(folder))
        processes.barrier("the checkpoint has its checksums")
        self._damaged.discard(step)

    def latest_step(self) -> int | None:
        """Returns the newest good checkpoint's step, or None where there is none."""
        return max((c.step for c in self._good()), default=None)

    def best_step(self) -> int | None:
        """Returns the step with the highest validation mIoU (the earlier of equals), or None."""
        return _best(self._good())

    def restore(
        self, step: int, like: TrainState, sharding: Sharding
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the data iterator's state saved at `step`.

        Args:
          step: which checkpoint.
          like: a state with the shapes and types to expect.
          sharding: how the arrays are laid out; it need not be the layout they were saved in.

        Raises:
          UserError: the checkpoint is of other settings.
        """
        metadata = self._checkpointer.metadata(step).custom_metadata or {}
        if self._fingerprint not in (None, metadata.get("fingerprint")):
            raise UserError(
                f"{self._directory} holds checkpoints of other settings than the given config: "
                "take the config they were made with (config.json beside them), or another "
                "--workdir"
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like._asdict()
        )
        state = TrainState(**self._checkpointer.load(step, abstract))
        return state, json.loads(metadata["iterator"])

    def _good(self) -> list[Any]:
        return [c for c in self._checkpointer.checkpoints if c.step not in self._damaged]


class _KeepBest:
    """Keeps what `best_step` returns. Orbax's own policy keeps the later one of equals, so that it
    would depend on the checkpoints in between, and on interruptions, which is there in the end."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = _best(checkpoints)
        return [checkpoint.step == best for checkpoint in checkpoints]


def _best(checkpoints: Sequence[Any]) -> int | None:
    scored = [c for c in checkpoints if c.metrics]
    return max(scored, key=lambda c: (c.metrics["miou"], -c.step)).step if scored else None


def _set_damaged_aside(directory: Path) -> None:
    aside = Path(directory).with_name("damaged")
    for step in sorted(damaged_steps(directory, tell=f"set aside in {aside}")):
        with cannot_write(aside):
            aside.mkdir(exist_ok=True)
            count = sum(p.name.startswith(f"{step}-") for p in aside.iterdir())
            move(Path(directory) / str(step), aside / f"{step}-{count}")


def damaged_steps(directory: Path, tell: str = "passed over") -> set[int]:
    """Returns the steps of the checkpoints whose files are not those that were written.

    Args:
      directory: of the checkpoints.
      tell: what the line of warning says is done with them.
    """
    damaged = set()
    for folder in sorted(Path(directory).glob("[0-9]*")):
        if folder.name.isdigit() and (wrong := _damage(folder)):
            damaged.add(int(folder.name))
            print(f"warning: the checkpoint {folder} is {tell}: {wrong}", file=sys.stderr)
    return damaged


def _damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint's files, None where they are as written."""
    try:
        written = json.loads((folder / CHECKSUMS).read_text())
        found = _checksums(folder)
    except FileNotFoundError:
        return None if _is_readable(folder) else f"it has no {CHECKSUMS}, and is not all there"
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} cannot be read ({error})"
    if not isinstance(written, dict):
        return f"{CHECKSUMS} holds no checksums"
    wrong = [name for name in written if found.get(name) != written[name]]
    return f"{wrong[0]} is missing, cut short or altered" if wrong else None


def _is_readable(folder: Path) -> bool:
    """Returns whether a checkpoint has its metadata and all of its arrays' content."""
    try:
        json.loads(json.loads((folder / _METADATA).read_text())["custom_metadata"]["iterator"])
        for name in _STATE_METADATA:
            json.loads((folder / name).read_text())
        state = f"file://{folder.absolute() / 'state'}/"
        store = ts.KvStore.open({"driver": "ocdbt", "base": state}).result()
        keys = store.list().result()
        for key in keys:
            store.read(key).result()
    except Exception:  # What is not all there can raise nearly anything.
        return False
    return bool(keys)


def _checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file in a folder, by its path in there."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.relative_to(folder).as_posix()] = digest
    return sums


def _reason(error: BaseException) -> str:
    """Returns the last, most telling piece of an error's message, in one line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text.rpartition(": ")[2][:200] or type(error).__name__


def abstract_state(head: APANet, backbone: str) -> TrainState:
    """Returns a training state with shapes and types as leaves, to restore a checkpoint against.

    Args:
      head: the module that is trained.
      backbone: whose features it takes, a name of `models.backbones.BACKBONES`.
    """
    parameters = head_shapes(head, backbone)
    transformation = train_step.optimizer(lambda count: 0.0)

    def state():
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parameters)
        return TrainState(jnp.zeros((), jnp.int32), zeros, transformation.init(zeros))

    return jax.eval_shape(state)
