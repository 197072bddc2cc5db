"""Flags of the commands that take a config: parsed, and read, with one line for what is wrong."""

from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from apanet_jax.errors import UserError, main_guard


def config_of(holder: flags.FlagHolder) -> tuple[ConfigDict, str]:
    """Returns the config that the flag `--config` names, and its file's stem.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    flag = flags.FLAGS[holder.name]
    if flag.value is None:
        raise UserError("no --config: name one, such as --config=configs/quickstart.py")
    filename = config_flags.get_config_filename(flag)
    try:
        return ConfigDict(flag.value), Path(filename).stem
    except OSError as error:
        raise UserError(f"--config={filename} cannot be read: {error}") from error


def run_command(main: Callable[[], int | None]) -> None:
    """Parses the flags and runs `main`; ends the process (see `errors.main_guard`)."""

    @main_guard
    def guarded(argv: list[str]) -> int | None:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: every setting is a flag, see --help")
        # Orbax and tensorflow-datasets tell of every file otherwise, and what they raise is told
        # in one line.
        logging.set_verbosity(logging.FATAL)
        return main()

    main_guard(lambda: app.run(guarded, flags_parser=_parse))()


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except (OSError, SyntaxError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"the flags cannot be used: {error}") from error
