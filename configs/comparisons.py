"""The paper's two convolutions against PFENet's feature enrichment, on your own images.

    python -m apanet_jax.main --config=configs/comparisons.py:records=RECORDS --workdir=WORKDIR

Each comparison without the class-agnostic branch, and with each choice of what stands in its prior
channel. `variants=conv_baseline+fem_baseline` runs some of them; `backbone=vgg16,weights=hed`
takes VGG-16 in place of EfficientNet-Lite0. The rest is as in `configs/folder.py`.
"""

from ml_collections import ConfigDict

from apanet_jax.config.recipes import recipe
from apanet_jax.config.settings import with_options


def get_config(options: str = "") -> ConfigDict:
    """Returns the settings, with `options` (`folds=0+1,seeds=0`) set."""
    config = recipe("folder")
    config.evaluation.bundled = 0
    config.sweep.folds = ("all",)
    config.sweep.seeds = (0,)
    config.evaluation.pictures = 0
    # Feature maps at 193 pixels have 25 or 13 positions a side: fewer than PFENet's 60.
    comparisons = {
        "conv": "comparison=conv",
        "fem": "comparison=fem,pyramid_bins=1.0+0.5+0.25+0.125",
    }
    for comparison, chosen in comparisons.items():
        config.variants[f"{comparison}_baseline"] = f"{chosen},num_clusters=0"
        for prior in ("complement", "same", "zeros"):
            config.variants[f"{comparison}_{prior}"] = f"{chosen},agnostic_prior={prior}"
    return with_options(config, options)
