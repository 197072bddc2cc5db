"""COCO-20i as in the paper's Table II: ResNet-50 at 473x473, 50 epochs of batch 8.

    python -m apanet_jax.prepare coco --images=coco2014 --annotations=coco2014/annotations \\
        --output=RECORDS
    python -m apanet_jax.main --config=configs/coco.py:records=RECORDS,fold=0 --workdir=WORKDIR

The learning rate is 0.005 times 10, as in PFENet's code. The folds are interleaved; records made
with `--split=consecutive` have the other ones. The paper names only mirror, rotation and crop:
`augmentation.scale=1.0+1.0,blur_probability=0` leaves the others out. The baseline is
`num_clusters=0`.
"""

from ml_collections import ConfigDict

from apanet_jax.config.settings import default_config, with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` (`fold=2,backbone=resnet101`) set."""
    config = default_config()
    config.dataset = "coco"
    # Of the usual weights; a file of PSPNet's or PFENet's, as the paper has them, brings its own.
    config.backbone.stem = "plain"
    config.workers = 8

    config.augmentation.scale = (0.8, 1.25)

    config.training.epochs = 50
    config.training.batch_size = 8
    config.training.learning_rate = 0.005

    config.evaluation.episodes = 20000
    # About once in an epoch, as the reference code validates where there are 50 or fewer.
    config.evaluation.every = 8000
    return with_options(config, options)
