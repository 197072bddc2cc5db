"""The configs that come with the package, by name: `--config=quickstart`, `recipe("folder")`."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.paths import given_path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED, _CHECKOUT = _PACKAGE / "configs", _PACKAGE.parent / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Where they are: in the package where it was installed, beside it in a checkout."""


def recipe(name: str, options: str = "") -> ConfigDict:
    """Returns the settings of the config called `name`, with `options` set.

    Raises:
      UserError: there is no such config, or an option cannot be set.
    """
    path = path_of(name)
    spec = importlib.util.spec_from_file_location(f"apanet_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([options] if options else []))


def path_of(name: str) -> Path:
    """Returns the file of a config: a file's own name goes first, then those of the package.

    `quickstart`, `quickstart.py` and `configs/quickstart.py` name the same one from any folder.

    Raises:
      UserError: there is none.
    """
    given = given_path(name)
    packaged = FOLDER / f"{given.stem}.py"
    if given.is_file():
        return given
    spellings = Path(packaged.stem), Path(packaged.name), Path("configs") / packaged.name
    if packaged.is_file() and given in spellings:
        return packaged
    raise UserError(
        f"--config={name} is no file, and no config is called so; there are "
        + ", ".join(path.stem for path, _ in recipes())
    )


def recipes() -> Iterator[tuple[Path, str]]:
    """Yields the configs to choose from, each with the first line of its docstring."""
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in ("__init__", "common"):
            yield path, (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
