"""Trains a head on some classes, and scores it on others that it never saw.

    apanet-jax train --config=quickstart
    apanet-jax train --config=folder:records=RECORDS,fold=0 --workdir=WORKDIR

`python -m apanet_jax.main` is the same. The first draws its own data; the
second takes what `apanet-jax prepare` wrote to RECORDS. Settings go behind the
colon by their last name (fold=2,num_clusters=0,steps=3000) or as flags of their
own (--config.training.steps=3000). The same command again goes on with a run
that was stopped.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.paths import given_path

_CONFIG = config_flag("The settings: a config's name or file, and options behind a colon.")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run is kept; an existing run goes on. Default: runs/NAME of the config.",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_evaluate",
    ["train_and_evaluate", "train", "evaluate", "verify"],
    "What to do; verify counts again what --workdir's results.json says.",
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    None,
    ["auto"],
    "auto: one of several processes, as SLURM, Kubernetes, MPI or a TPU pod say.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where this is one of several processes."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait until all processes are there.", lower_bound=1
)


def main() -> int | None:
    """Runs what the flags say; returns 1 where results are not what they were."""
    if _WORKDIR.value == "":
        raise UserError("--workdir= is empty: is a variable of the shell that holds it not set?")
    config, name = None, ""
    if _MODE.value != "verify" or flags.FLAGS[_CONFIG.name].value is not None:
        config, name = config_of(_CONFIG)
    # Imported here, so that a wrong flag is answered at once and --help needs no accelerator.
    from apanet_jax.runtime import compilation, processes

    if config is not None and config.deterministic:
        # Here too, for the processes of a run ask for their devices when they come together.
        compilation.make_deterministic()
    others = (_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    with processes.session(*others, timeout=_JOIN_TIMEOUT.value):
        if config is None:
            return _verify(None, given_path(_WORKDIR.value) if _WORKDIR.value else None)
        from apanet_jax.runs.sweep import run_all

        compilation.keep_compiled(config.compilation_cache)
        workdir = given_path(_WORKDIR.value or f"runs/{name}")
        if _MODE.value == "verify":
            return _verify(config, workdir)
        run_all(config, workdir, _MODE.value)
    return None


def _verify(config: ConfigDict | None, workdir: Path | None) -> int:
    if workdir is None:
        raise UserError("no --workdir: name the one whose results are to be verified")
    from apanet_jax.runs.recount import verify

    return int(verify(workdir, config) > 0)


if __name__ == "__main__":
    run_command(main)
