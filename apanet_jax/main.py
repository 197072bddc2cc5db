"""Trains and evaluates: `python -m apanet_jax.main --config=configs/quickstart.py`."""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from apanet_jax.command_line import config_of, run_command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings: configs/NAME.py, with options behind a colon (fold=2,shot=5)."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is kept; an existing run goes on. Default: runs/NAME."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_evaluate",
    ["train_and_evaluate", "train", "evaluate"],
    "What to do.",
)


def main() -> None:
    """Runs what the flags say."""
    config, name = config_of(_CONFIG)
    # Imported here, so that a wrong flag is answered at once and --help needs no accelerator.
    from apanet_jax.variants import keep_compiled, run_all

    keep_compiled(config.compilation_cache)
    run_all(config, Path(_WORKDIR.value or f"runs/{name}"), _MODE.value)


if __name__ == "__main__":
    run_command(main)
