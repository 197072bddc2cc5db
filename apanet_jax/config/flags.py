"""Flags of the commands that take a config: parsed, and read, with one line for what is wrong."""

import ast
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from apanet_jax.runtime.errors import UserError, main_guard

# A flag belongs to the script that asks for it, not to this module.
flags.disclaim_key_flags()

_CONFIGS = Path(__file__).parents[2] / "configs"
"""Beside the package, in a checkout and where it is installed."""


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
    try:
        return ConfigDict(flag.value), Path(filename.partition(":")[0]).stem
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

    if {"--help", "-h"} & set(sys.argv[1:]):
        print(_help(sys.modules[main.__module__]))
        sys.exit(0)
    main_guard(lambda: app.run(guarded, flags_parser=_parse))()


class _ByName(ConfigFileFlagParser):
    """Loads a config's file, wherever it is."""

    def parse(self, path: str) -> ConfigDict:
        name, colon, options = path.partition(":")
        return super().parse(f"{_config_path(name)}{colon}{options}")


def _config_path(name: str) -> Path:
    given = Path(name)
    packaged = _CONFIGS / f"{given.stem}.py"
    if given.is_file():
        return given
    if packaged.is_file() and given in (Path(packaged.stem), *_spellings(packaged)):
        return packaged
    raise UserError(
        f"--config={name} is no file, and no config is called so; there are "
        + ", ".join(path.stem for path, _ in _packaged())
    )


def _spellings(packaged: Path) -> tuple[Path, Path]:
    return Path(packaged.name), Path(_CONFIGS.name) / packaged.name


def _packaged() -> Iterator[tuple[Path, str]]:
    """Yields the configs to choose from, each with the first line of what it says of itself."""
    for path in sorted(_CONFIGS.glob("*.py")):
        if path.stem not in ("__init__", "common"):
            yield path, (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except KeyError as error:
        raise UserError(f"the flags cannot be used: {error.args[0]}") from error
    except (OSError, SyntaxError, ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"the flags cannot be used: {error}") from error


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
    for path, says in _packaged():
        lines += [f"  {path.stem}", *_indented(says, width)]
    return "\n".join([*lines, "", f"every setting, with its meaning: {_CONFIGS / 'common.py'}"])


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
