"""Baseline and APANet on a data set made on the spot: minutes on two CPU cores, no download.

python -m apanet_jax.main --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from apanet_jax.config.recipes import recipe
from apanet_jax.config.settings import with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` set."""
    config = recipe("folder")
    config.evaluation.bundled = 0
    config.dataset = "synthetic"
    config.data.generate = 400
    config.training.steps = 400
    config.training.checkpoint_every = 200
    config.evaluation.episodes = 300
    config.variants.baseline = "num_clusters=0"
    config.variants.apanet = "num_clusters=3"
    return with_options(config, options)
