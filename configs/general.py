"""The head that `predict` uses when it is given none: trained on drawn images alone.

    python -m apanet_jax.main --config=configs/general.py --workdir=WORKDIR
    python -m apanet_jax.export --workdir=WORKDIR --output=apanet_jax/inference/heads/drawn

Five supports an episode and the prior with contrast; what it scores on photographs that it has not
seen is in experiments/results/general_head.md.
"""

from ml_collections import ConfigDict

from apanet_jax.config.recipes import recipe
from apanet_jax.config.settings import with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` set."""
    config = recipe("folder")
    config.dataset = "synthetic"
    config.data.generate = 1500
    config.shot = 5
    config.model.priors = ("middle", "contrast")
    config.training.steps = 400
    config.training.rate_factor = 30.0
    return with_options(config, options)
