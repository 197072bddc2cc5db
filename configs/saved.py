"""The settings that a run left in its `config.json`, or an exported head has beside it.

    python -m apanet_jax.main --config=configs/saved.py:WORKDIR/config.json,records=RECORDS

More options follow the path, as behind the other configs.
"""

from ml_collections import ConfigDict

from apanet_jax.config.saved import NO_CONFIG, from_json
from apanet_jax.config.settings import with_options
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.paths import given_path


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings of the file that `options` begins with, with the rest of them set."""
    path, _, rest = options.partition(",")
    try:
        config = from_json(given_path(path).read_text())
    except (OSError, UserError, *NO_CONFIG) as error:
        raise UserError(
            f"configs/saved.py needs a run's config.json behind the colon, not {path!r}: {error}"
        ) from None
    return with_options(config, rest)
