"""The settings that a run leaves in its `config.json`, and an exported head has beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from apanet_jax.config.definitions import Settings
from apanet_jax.config.options import flat_fields, no_field
from apanet_jax.config.settings import default_config, definitions
from apanet_jax.runtime.errors import UserError

FILE = "config.json"
"""What a run leaves its settings in."""

NO_CONFIG = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What making a config of a file that holds none may raise."""

_VARIANTS = "variants."


def from_json(text: str) -> ConfigDict:
    """Returns the config that a run left as `config.json`.

    A setting that the run's version did not have is as it was then. Settings without effect are
    kept: `saved` is true.

    Raises:
      ValueError: this is no config.
      UserError: it has a setting that there is not.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("expected an object")
    saved = ConfigDict(_with_tuples(content))
    known = dict(definitions())
    given = dict(flat_fields(saved))
    for name in given:
        if name not in known and not name.startswith(_VARIANTS):
            raise UserError(no_field(name, known))
    config = default_config()
    for name, field in known.items():
        config.update_from_flattened_dict({name: field.metadata["before"]})
    with config.unlocked():
        config.update(saved)
        config.saved = True
    return config


def json_settings(settings: Settings, *, paths: bool = True) -> dict[str, Any]:
    """Returns what `config.json` holds of a run's settings.

    Args:
      settings: the run's.
      paths: whether to name files of this machine: data, features, checkpoint, list of episodes.
    """
    content = dataclasses.asdict(settings)
    del content["saved"]
    if not paths:
        content["data"]["records"] = content["features"]["directory"] = ""
        content["evaluation"]["checkpoint"] = content["evaluation"]["list"] = ""
    return content


def of_run(workdir: Path) -> ConfigDict:
    """Returns the config that a single run left in its workdir.

    Raises:
      UserError: there is none, or it cannot be read; names the runs below, where there are any.
    """
    path = workdir / FILE
    try:
        return from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        runs = sorted(str(p.parent) for p in workdir.glob(f"**/{FILE}"))
        hint = f"; it holds several runs: {', '.join(runs[:4])}" if runs else ""
        raise UserError(f"--workdir={workdir} is no run, {FILE} is missing{hint}") from None
    except (OSError, UserError, *NO_CONFIG) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _with_tuples(value: Any) -> Any:
    """Turns JSON's lists back into tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
