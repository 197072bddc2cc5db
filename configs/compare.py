"""Baseline against APANet on your own images: every fold, two seeds, one table.

    python -m apanet_jax.main --config=configs/compare.py:records=RECORDS --workdir=WORKDIR

Both are `configs/folder.py`, the baseline without the class-agnostic branch.
"""

from ml_collections import ConfigDict

from apanet_jax.config.recipes import recipe
from apanet_jax.config.settings import with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` (`folds=0+1,seeds=0`) set."""
    config = recipe("folder")
    config.evaluation.bundled = 0
    config.sweep.folds = ("all",)
    config.sweep.seeds = (0, 1)
    config.evaluation.pictures = 4
    config.variants.baseline = "num_clusters=0"
    config.variants.apanet = "num_clusters=3"
    return with_options(config, options)
