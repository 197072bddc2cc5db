"""Every setting there is, with the values that the other configs start from.

A config file is given options behind a colon, `--config=configs/pascal.py:fold=2,shot=5`, or
flags, `--config.model.num_clusters=5`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the protocol's settings for PASCAL-5i, with no data set named yet."""
    config = ConfigDict()
    config.seed = 0
    config.dataset = ""  # the name in results.json
    config.fold = 0  # whose classes are novel
    config.shot = 1  # supports of a training episode
    config.image_size = 473  # side of the square that the network sees, in pixels

    config.data = ConfigDict()
    config.data.records = ""  # what `python -m apanet_jax.prepare` wrote
    config.data.generate = 0  # pictures to make for training where the workdir has none yet
    config.data.min_area = 2048  # pixels of a class that make a picture one of its list
    config.data.support_gap = 0  # frames between query and support of one video; 0: no videos

    # Share of training queries that hold a novel class; -1: all queries there are.
    config.data.hidden_share = -1.0

    config.backbone = ConfigDict()
    config.backbone.name = "resnet50"
    config.backbone.stem = "deep"  # of a ResNet: "deep" (three 3x3) or "plain" (7x7)
    config.backbone.weights = ""  # a file, "pip", "hed", "hf:owner/name", "random"; "": usual place
    config.backbone.dtype = "float32"  # or "bfloat16"

    config.model = ConfigDict()
    config.model.comparison = "conv"  # 3x3 and 1x1, or "fem": PFENet's feature enrichment
    config.model.pyramid_bins = (60, 30, 15, 8)  # of "fem": cells a side; up to 1: a fraction
    config.model.level_weight = 1.0  # of the levels' mean loss beside the main one
    config.model.agnostic_levels = True  # levels' losses in the class-agnostic branch too
    config.model.channels = 256
    config.model.num_clusters = 3  # the paper's n; 0 is the baseline
    config.model.regions = "kmeans"  # or "grid" (n square cells), "support" (its background)
    config.model.foreground_prototypes = 1  # of a support's foreground, up to 16: its clusters'
    config.model.negatives = 1  # clusters that the foreground is compared with
    config.model.resemblance_limit = 1.0  # cosine that leaves a cluster out of the losses; 1: none
    config.model.agnostic_weight = 0.5  # the paper's lambda
    config.model.priors = ("high",)  # masks; also "middle", "block4", "block3", "contrast"
    config.model.agnostic_prior = "complement"  # or "same", "zeros"
    config.model.prior_scale = 1.0  # factor of the prior masks' channels
    config.model.stretch_prior = True  # min-max normalised; otherwise the cosines themselves
    config.model.masked_support = True  # block 5 of supports sees block 4 times the mask
    config.model.unit_features = False  # scale features to a mean square of 1 at each position
    config.model.shared_reduction = False
    config.model.reduction_dropout = 0.5
    config.model.comparison_dropout = 0.1
    config.model.cluster_features = "high"  # or "middle"
    config.model.kmeans_rounds = 10
    config.model.kmeans_init = "farthest"  # or "k-means++", "random"

    config.augmentation = ConfigDict()
    config.augmentation.longer_side = 0  # resize pictures to this first; 0: leave them
    config.augmentation.scale = (0.9, 1.1)  # (1, 1): off
    config.augmentation.rotation = 10.0  # degrees to either side
    config.augmentation.rotation_probability = 0.5
    config.augmentation.blur_probability = 0.5
    config.augmentation.mirror_probability = 0.5
    config.augmentation.crop = True  # at random; otherwise centred

    config.training = ConfigDict()
    config.training.epochs = 200
    config.training.steps = 0  # instead of epochs, where above 0
    config.training.batch_size = 4
    config.training.learning_rate = 0.0025
    config.training.rate_factor = 10.0  # PFENet's code multiplies the rate of its heads by this
    config.training.momentum = 0.9
    config.training.weight_decay = 1e-4
    config.training.log_every = 50  # steps
    config.training.checkpoint_every = 500  # steps; also at each validation and at the end

    config.evaluation = ConfigDict()
    config.evaluation.shots = (1, 5)
    config.evaluation.episodes = 5000
    config.evaluation.seed = 321
    config.evaluation.batch_size = 8
    config.evaluation.embed_once = True  # every test picture once, not once an episode
    # Room for their features: on each accelerator, then in memory; more of them go to disk.
    config.evaluation.device_gigabytes = 4.0
    config.evaluation.memory_gigabytes = 8.0
    config.evaluation.every = 0  # steps between validations, which choose the best; 0: none
    config.evaluation.validation_episodes = 1000
    config.evaluation.pictures = 12  # episodes drawn as pictures
    # Files; {fold} in their names stands for the fold's number.
    config.evaluation.checkpoint = ""  # of a PFENet, or an exported head: scored instead of ours
    config.evaluation.list = ""  # of episodes to score, in place of those drawn by seed
    config.evaluation.write_episodes = False  # leave each episode and its counts in a file

    config.features = ConfigDict()
    config.features.keep = False  # embed pictures once, then train on what was kept
    config.features.views = 2  # augmented views of a training picture
    config.features.directory = ""  # where they are kept; "": beside the records

    config.sweep = ConfigDict()
    config.sweep.folds = ()  # several in place of `fold`: folds=0+2, folds=all
    config.sweep.seeds = ()  # several in place of `seed`
    config.sweep.variants = ()  # names of the `variants` to run; (): all
    config.sweep.side_by_side = (
        False  # train those in one program that differ in seed, fold, lambda
    )

    config.variants = ConfigDict()  # several runs: a name each, and the options that it adds

    config.compilation_cache = "~/.cache/apanet_jax"  # of compiled programs; "": none is kept
    # The same bits each time on a GPU too, at a tenth of a step's time.
    config.deterministic = True
    config.workers = 0  # processes that load pictures; 0: threads of the main one
    config.devices = 0  # how many to use; 0: all
    return config
