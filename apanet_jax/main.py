"""Trains and evaluates: `python -m apanet_jax.main --config=configs/quickstart.py`."""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from apanet_jax.errors import UserError, main_guard

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


@main_guard
def main(argv: list[str]) -> None:
    """Runs what the flags say."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: every setting is a flag, see --help")
    if _CONFIG.value is None:
        raise UserError("no --config: name one, such as --config=configs/quickstart.py")
    logging.set_verbosity(logging.WARNING)
    # Imported here, so that a wrong flag is answered at once and --help needs no accelerator.
    from apanet_jax.variants import run_all

    filename = config_flags.get_config_filename(flags.FLAGS["config"])
    try:
        config = ConfigDict(_CONFIG.value)
    except OSError as error:
        raise UserError(f"--config={filename} cannot be read: {error}") from error
    run_all(config, Path(_WORKDIR.value or f"runs/{Path(filename).stem}"), _MODE.value)


def cli() -> None:
    """Parses the flags and runs `main`, telling of a config that cannot be read in one line."""

    @main_guard
    def guarded() -> None:
        app.run(main, flags_parser=_parse)

    guarded()


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (OSError, SyntaxError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"the flags cannot be used: {error}") from error


if __name__ == "__main__":
    cli()
