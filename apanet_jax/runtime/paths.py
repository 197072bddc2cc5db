"""Paths as people write them."""

import argparse
from pathlib import Path

from apanet_jax.runtime.errors import UserError


class EmptyPath(UserError, argparse.ArgumentTypeError):
    """A path without a name; a parser of arguments says of which one."""


def given_path(text: str) -> Path:
    """Returns the path that an argument names, with `~` for the home folder.

    A shell does not expand `~` behind an equals sign, as in `--output=~/found`.

    Raises:
      UserError: the path is empty, or there is no home folder.
    """
    if not text:
        raise EmptyPath("the path is empty: is a variable of the shell that holds it not set?")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if text != "~" and not text.startswith("~/"):
            return Path(text)
        raise UserError(f"{text}: there is no home folder, write the whole path") from None
