"""The heads that come with the package; `predict --head` chooses one.

`drawn`, with the settings below, has seen drawn images alone:

    python -m apanet_jax.main --config=configs/general.py --workdir=WORKDIR

Five supports an episode and the prior with contrast; what it scores on photographs that it has not
seen is in experiments/results/general_head.md. `small` has seen photographs too, of voc_animals and
scenes, and `dinov2` those of voc_animals, all of its classes:

    python -m apanet_jax.prepare folder --source=VOC_ANIMALS --source=SCENES --drawn=600 \\
        --output=RECORDS
    python -m apanet_jax.main --mode=train --config=configs/folder.py:records=RECORDS,fold=10,\\
        steps=1800 --workdir=WORKDIR
    python -m apanet_jax.prepare folder --source=VOC_ANIMALS --output=RECORDS
    python -m apanet_jax.main --mode=train --config=configs/folder.py:records=RECORDS,fold=-1,\\
        backbone=dinov2_vits14,image_size=336,longer_side=336,views=1,priors=density_ratio,\\
        steps=1800 --workdir=WORKDIR

experiments/results/own_photographs.md has what they score. Each is then exported:

    python -m apanet_jax.export --workdir=WORKDIR --output=apanet_jax/inference/heads/NAME
"""

from ml_collections import ConfigDict

from apanet_jax.config.recipes import recipe
from apanet_jax.config.settings import with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` set."""
    config = recipe("folder")
    config.evaluation.bundled = 0
    config.dataset = "synthetic"
    config.data.generate = 1500
    config.shot = 5
    config.model.priors = ("middle", "contrast")
    config.training.steps = 400
    config.training.rate_factor = 30.0
    return with_options(config, options)
