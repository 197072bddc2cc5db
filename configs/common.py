"""Every setting there is, with its default, from which the other configs start.

Their meanings, ranges and defaults stand in `apanet_jax/config/definitions.py`. A config file is
given options behind a colon, `--config=configs/pascal.py:fold=2,shot=5`, or flags,
`--config.model.num_clusters=5`.
"""

from ml_collections import ConfigDict

from apanet_jax.config.settings import default_config, with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the protocol's settings for PASCAL-5i, with no data set named yet."""
    return with_options(default_config(), options)
