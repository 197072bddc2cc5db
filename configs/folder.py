"""Your own images and masks, on a CPU or one GPU.

    python -m apanet_jax.prepare folder --source=DIR --output=RECORDS
    python -m apanet_jax.main --config=configs/folder.py:records=RECORDS,fold=0 --workdir=WORKDIR

EfficientNet-Lite0 features at 193x193, kept in two augmented views of each image, so that a head
trains in minutes without a GPU. The baseline is the same with `num_clusters=0`.
"""

from ml_collections import ConfigDict

from apanet_jax.config.settings import default_config, with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` (`fold=2,num_clusters=5`) set."""
    config = default_config()
    config.image_size = 193

    config.backbone.name = "efficientnet_lite0"
    config.model.channels = 64
    config.model.masked_support = False
    # Lite0's blocks are linear at the end: their features have standard deviations of 5 to 8.
    config.model.unit_features = True
    # Dilated 16 times, Lite0's last block finds objects worse than its middle ones do.
    config.model.priors = ("middle",)
    config.model.cluster_features = "middle"
    config.model.prior_scale = 5.0
    config.model.reduction_dropout = 0.0

    config.augmentation.longer_side = 193
    config.features.keep = True

    config.training.steps = 600
    config.training.batch_size = 8
    config.training.checkpoint_every = 300
    config.evaluation.episodes = 500
    config.evaluation.bundled = 5
    return with_options(config, options)
