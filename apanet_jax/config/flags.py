"""Flags of the commands that take a config: parsed, and read, with one line for what is wrong."""

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from apanet_jax.config import definitions
from apanet_jax.config.options import set_options
from apanet_jax.config.recipes import path_of, recipes
from apanet_jax.config.settings import expand_home, inert_fields, settle_inert
from apanet_jax.runtime.errors import UserError, main_guard

# A flag belongs to the script that asks for it, not to this module.
flags.disclaim_key_flags()


def config_flag(meaning: str) -> flags.FlagHolder:
    """Defines `--config`: a file, or the name of one of `configs/`, with options behind a colon.

    `--config=quickstart` and `--config=configs/quickstart.py` name the same config from any folder;
    a file that is there goes first.
    """
    holder = config_flags.DEFINE_config_file("config", None, meaning)
    flags.FLAGS[holder.name].parser = _ByName(holder.name)
    return holder


def config_of(holder: flags.FlagHolder) -> tuple[ConfigDict, str]:
    """Returns the config that the flag `--config` names, and its file's stem.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    flag = flags.FLAGS[holder.name]
    if flag.value is None:
        raise UserError("no --config: name one, such as --config=quickstart")
    filename = config_flags.get_config_filename(flag)
    name, _, options = filename.partition(":")
    try:
        config = ConfigDict(flag.value)
        _settle_flags(config, flag, filename, options)
        expand_home(config)
    except OSError as error:
        raise UserError(f"--config={filename} cannot be read: {error}") from error
    return config, Path(name).stem


def _settle_flags(config: ConfigDict, flag: flags.Flag, filename: str, options: str) -> None:
    """Treats `--config.NAME=VALUE` as an option: see `settings.with_options`."""
    by_flag = list(config_flags.get_override_values(flag))
    if not by_flag:
        return
    before_flags = flag.parser.parse(filename)
    by_option = []
    # A config of the user's own may have options of another form, a saved one's begin with a path.
    with contextlib.suppress(UserError):
        own = options.partition(",")[2] if config.get("saved", False) else options
        by_option = set_options(before_flags, own)
    settle_inert(config, set(dict(inert_fields(before_flags))), [*by_flag, *by_option])


def run_command(main: Callable[[], int | None]) -> None:
    """Parses the flags and runs `main`; ends the process (see `errors.main_guard`)."""

    @main_guard
    def guarded(argv: list[str]) -> int | None:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: every setting is a flag, see --help")
        # Orbax and tensorflow-datasets log every file otherwise, and what they raise becomes
        # one line.
        logging.set_verbosity(logging.FATAL)
        return main()

    if {"--help", "-h"} & set(sys.argv[1:]):
        print(_help(sys.modules[main.__module__]))
        sys.exit(0)
    main_guard(lambda: app.run(guarded, flags_parser=_parse))()


class _ByName(ConfigFileFlagParser):
    """Loads a config's file, wherever it is."""

    def parse(self, path: str) -> ConfigDict:
        name, colon, options = path.partition(":")
        file = path_of(name)
        # It warns of a function that returns nothing, which is said below.
        logging.set_verbosity(logging.FATAL)
        try:
            config = super().parse(f"{file}{colon}{options}")
        except _UNUSABLE as error:
            # ml_collections puts a traceback into its message, behind which is what was raised.
            raise _no_config(name, _innermost(error.__context__ or error)) from error
        if not isinstance(config, ConfigDict):
            raise _no_config(name, f"it returns {config!r}")
        return config


def _no_config(name: str, said: str) -> UserError:
    return UserError(
        f"--config={name} is no config: expected a file of Python with a function get_config that "
        f"returns a ConfigDict; {said}"
    )


_UNUSABLE = KeyError, OSError, SyntaxError, ImportError, AttributeError, TypeError, ValueError
"""What a config's file and its fields raise."""


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except _UNUSABLE as error:
        raise UserError(f"the flags cannot be used: {_innermost(error)}") from error


def _innermost(error: Exception) -> str:
    """Returns what an error says, in a line: ml_collections puts one into another."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    said = error.args[0] if isinstance(error, KeyError) else error
    return " ".join(str(said).split())


def _help(module) -> str:
    """Returns what a script says of itself, its flags, and the configs that it can be given."""
    width = min(shutil.get_terminal_size().columns, 80)
    lines = [(module.__doc__ or "").strip(), "", "flags:"]
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        choices = getattr(flag.parser, "enum_values", None)
        lines.append(f"  --{flag.name}" + (f"={'|'.join(choices)}" if choices else ""))
        default = f" ({flag.default})" if flag.default else ""
        # absl puts the choices before what an enum says of itself.
        says = flag.help.partition(">: ")[2] if choices else flag.help
        lines += _indented(f"{says}{default}", width)
    lines += ["", "configs, or a file of your own:"]
    for path, says in recipes():
        lines += [f"  {path.stem}", *_indented(says, width)]
    return "\n".join([*lines, "", f"every setting, with its meaning: {definitions.__file__}"])


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
