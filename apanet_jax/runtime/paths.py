"""Paths as people write them."""

from pathlib import Path

from apanet_jax.runtime.errors import UserError


def given_path(text: str) -> Path:
    """Returns the path that an argument names, with `~` for the home folder.

    A shell does not expand `~` behind an equals sign, as in `--output=~/found`.

    Raises:
      UserError: there is no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if text != "~" and not text.startswith("~/"):
            return Path(text)
        raise UserError(f"{text}: there is no home folder, write the whole path") from None
