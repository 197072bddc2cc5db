"""The settings that a run left in its `config.json`, or an exported head has beside it.

    python -m apanet_jax.main --config=configs/saved.py:WORKDIR/config.json,records=RECORDS

More options follow the path, as behind the other configs.
"""

from pathlib import Path

from ml_collections import ConfigDict

from apanet_jax.config.settings import NO_CONFIG, flat_fields, from_json, no_field, with_options
from apanet_jax.runtime.errors import UserError
from configs import common


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings of the file that `options` begins with, with the rest of them set."""
    path, _, rest = options.partition(",")
    try:
        saved = from_json(Path(path).read_text())
        config = common.get_config()
        known = dict(flat_fields(config))
        for name, _ in flat_fields(saved):
            if name not in known and not name.startswith("variants."):
                raise UserError(f"{path}: {no_field(name, known)}")
        with config.unlocked():
            config.update(saved)
    except (OSError, *NO_CONFIG) as error:
        raise UserError(
            f"configs/saved.py needs a run's config.json behind the colon, not {path!r}: {error}"
        ) from None
    return with_options(config, rest)
