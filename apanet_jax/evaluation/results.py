"""The file results.json, as evaluation writes it."""

import json
from pathlib import Path
from typing import Any

from apanet_jax.runtime.errors import UserError

RESULTS = "results.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Returns the objects of a run's `results.json`, at least one.

    Raises:
      UserError: there is none that can be read.
    """
    path = folder / RESULTS
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}; evaluate there first") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} holds no results: expected a list of results, as evaluation writes it"
        )
    return rows
