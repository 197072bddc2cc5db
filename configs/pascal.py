"""PASCAL-5i as in the paper's Table I: ResNet-50 at 473x473, 200 epochs of batch 4.

    python -m apanet_jax.prepare pascal --voc=VOCdevkit/VOC2012 --sbd=benchmark_RELEASE \\
        --output=RECORDS
    python -m apanet_jax.main --config=configs/pascal.py:records=RECORDS,fold=0 --workdir=WORKDIR

The learning rate is 0.0025 times 10, as in PFENet's code. The paper names only mirror, rotation
and crop: `scale=1.0+1.0,blur_probability=0` leaves the others out. The baseline is
`num_clusters=0`.
"""

from ml_collections import ConfigDict

from apanet_jax.config.settings import default_config, with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` (`fold=2,backbone=resnet101`) set."""
    config = default_config()
    config.dataset = "pascal"
    # Of the usual weights; a file of PSPNet's or PFENet's, as the paper has them, brings its own.
    config.backbone.stem = "plain"
    config.workers = 8
    # Every second epoch of about 5,000 images, as the reference code validates.
    config.evaluation.every = 2500
    return with_options(config, options)
