"""Every setting, once: its type, default, range, meaning, and when it has no effect.

A person edits the settings as a `ConfigDict` (`configs/`, `--config=…`); `config.settings.typed`
turns that into the frozen `Settings` below, and each room of the package is handed its own part.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from apanet_jax.config import rules
from apanet_jax.config.rules import Rule

PRIORS = ("high", "middle", "block4", "block3", "contrast", "density_ratio")
"""Names of prior masks."""

NO_FOLD = -1
"""In place of a fold's number: no class is novel."""

PASCAL_BINS, COCO_BINS = (60, 30, 15, 8), (1.0, 0.5, 0.25, 0.125)
"""Pyramid levels of PFENet's feature enrichment, by the data set that its tables are of."""

Inert = Callable[["Settings"], str | None]
"""Says why a setting has no effect beside the others; None where it has one."""


def setting(
    default: Any,
    meaning: str,
    rule: Rule,
    *,
    inert: Inert | None = None,
    before: Any = dataclasses.MISSING,
    of_result: bool = True,
    added: bool = False,
) -> Any:
    """Returns the field of a setting.

    Args:
      default: its value where nobody sets it.
      meaning: one line for whoever sets it.
      rule: which values it may have.
      inert: when it has no effect.
      before: the value that runs had before there was the setting; absent: the default.
      of_result: whether a run's trained parameters depend on it. One that they do not depend on may
        change between a run and its continuation.
      added: whether it came after runs were kept that have no such setting: a run's fingerprint
        leaves it out where its value is what runs had before.
    """
    metadata = {
        "meaning": meaning,
        "rule": rule,
        "inert": inert,
        "before": default if before is dataclasses.MISSING else before,
        "of_result": of_result,
        "added": added,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _without_fem(settings: "Settings") -> str | None:
    return _unless(settings.model.comparison == "fem", "model.comparison='conv' has no pyramid")


def _without_clustering(settings: "Settings") -> str | None:
    regions = settings.model.regions
    return _unless(regions == "kmeans", f"model.regions={regions!r} clusters nothing")


def _without_keeping(settings: "Settings") -> str | None:
    return _unless(settings.features.keep, "features.keep=False augments an image each time")


def _unless(has_effect: bool, reason: str) -> str | None:
    return None if has_effect else reason


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where the images come from and which of them an episode may use."""

    records: str = setting(
        "", "what `python -m apanet_jax.prepare` wrote", rules.path(), of_result=False
    )
    generate: int = setting(
        0, "training images to draw where the workdir has none yet", rules.number(0)
    )
    min_area: int = setting(
        2048, "pixels of a class that put an image on its list", rules.number(0)
    )
    support_gap: int = setting(
        0, "frames between query and support of one video; 0: no videos", rules.number(0)
    )
    hidden_share: float = setting(
        -1.0,
        "share of training queries that hold a novel class, from 0 to 1; -1: all queries there are",
        rules.number(0, 1, or_value=-1),
    )
    training_list: str = setting(
        "all",
        'training images: "all" with a base class (PFENet, the paper), or "no_novel": of these '
        "those without a pixel of a novel class (BAM, HDMNet)",
        rules.one_of("all", "no_novel"),
        added=True,
    )


@dataclasses.dataclass(frozen=True)
class BackboneSettings:
    """The frozen network that gives the features."""

    name: str = setting("resnet50", "which network", rules.backbone())
    stem: str = setting(
        "deep",
        'of a ResNet: "deep" (three 3x3 convolutions) or "plain" (one 7x7)',
        rules.one_of("deep", "plain"),
        inert=lambda s: _unless(
            bool(rules.stems(s.backbone.name)), f"backbone.name={s.backbone.name!r} has one stem"
        ),
    )
    weights: str = setting(
        "", 'a file, "pip", "hed", "hf:owner/name" or "random"; "": the usual place', rules.path()
    )
    dtype: str = setting("float32", "of its computation", rules.one_of("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The head: what is trained. Equation numbers are the paper's."""

    comparison: str = setting(
        "conv",
        'the paper\'s g: "conv", a 3x3 and a 1x1 convolution, or "fem", PFENet\'s feature '
        "enrichment",
        rules.one_of("conv", "fem"),
    )
    pyramid_bins: tuple[float, ...] = setting(
        (),
        'levels of "fem": positions a side; up to 1 a fraction of the feature map\'s sides; (): '
        f"PFENet's for the data set, {COCO_BINS} for coco and {PASCAL_BINS} for others",
        rules.pyramid_bins(),
        inert=_without_fem,
    )
    level_weight: float = setting(
        1.0,
        "weight of the levels' mean loss beside the main one",
        rules.number(0),
        inert=_without_fem,
    )
    agnostic_levels: bool = setting(
        True,
        "whether the levels have losses in the class-agnostic branch too",
        rules.switch(),
        inert=_without_fem,
    )
    channels: int = setting(256, "of the reduced features", rules.number(1))
    num_clusters: int = setting(
        3, "the paper's n; 0: the baseline, without a class-agnostic branch", rules.number(0)
    )
    regions: str = setting(
        "kmeans",
        'what gives the class-agnostic branch its prototypes: "kmeans", the query\'s clusters; '
        '"grid", n square parts of the query; "support", the supports\' background (n = 1)',
        rules.one_of("kmeans", "grid", "support"),
    )
    foreground_prototypes: int = setting(
        1, "prototypes of a support's foreground, one for each cluster of it", rules.number(1, 16)
    )
    negatives: int = setting(
        1,
        "clusters that the foreground is compared with, one comparison each",
        rules.number(1),
        inert=lambda s: _unless(
            s.model.negatives <= max(s.model.num_clusters, 1),
            f"there are model.num_clusters={s.model.num_clusters} clusters to choose among",
        ),
    )
    resemblance_limit: float = setting(
        1.0,
        "cosine to the supports' foreground above which a cluster is left out of the losses; 1: "
        "none is",
        rules.number(-1, 1),
    )
    agnostic_weight: float = setting(0.5, "the paper's lambda (Eq. 9)", rules.number(0, 1))
    priors: tuple[str, ...] = setting(
        ("high",), "prior masks, a channel each", rules.some_of(*PRIORS)
    )
    bandwidth: float = setting(
        0.05,
        'of the prior mask "density_ratio"',
        rules.number(1e-3, 10),
        inert=lambda s: _unless(
            "density_ratio" in s.model.priors,
            f"model.priors={s.model.priors} has no density ratio",
        ),
        added=True,
    )
    agnostic_prior: str = setting(
        "complement",
        "what stands in the prior masks' channels in the class-agnostic branch",
        rules.one_of("complement", "same", "zeros"),
    )
    query_clusters: int = setting(
        0,
        "clusters of the query within which half of the logits is averaged when heads are scored "
        "and used; 0: none",
        rules.number(0),
        of_result=False,
        added=True,
    )
    prior_scale: float = setting(1.0, "factor of the prior masks' channels", rules.number(0))
    stretch_prior: bool = setting(
        True,
        "whether prior masks are min-max normalised over their image; else cosines stay as they "
        "are",
        rules.switch(),
        inert=lambda s: _unless(
            bool(set(s.model.priors) - {"contrast", "density_ratio"}),
            f"model.priors={s.model.priors} has no mask that is stretched",
        ),
    )
    masked_support: bool = setting(
        True,
        "whether block 5 of a support sees block 4 times the mask, as in PFENet",
        rules.switch(),
    )
    comparison_dtype: str = setting(
        "float32",
        "of the reduced features and of the products of their comparison; sums, prototypes and "
        "logits are in float32",
        rules.one_of("float32", "bfloat16"),
        added=True,
    )
    unit_features: bool = setting(
        False, "scale the features at each position to a mean square of 1", rules.switch()
    )
    shared_reduction: bool = setting(
        False, "one reduction for query and supports instead of one each", rules.switch()
    )
    reduction_dropout: float = setting(
        0.5, "share of the reduced channels dropped in training", rules.number(0, 0.99)
    )
    comparison_dropout: float = setting(
        0.1, "share of the comparison's hidden channels dropped in training", rules.number(0, 0.99)
    )
    debias: int = setting(
        0,
        "positional directions taken out of the high features (INSID3); 0: none",
        rules.number(0),
        inert=lambda s: _unless(
            "high" in (*s.model.priors, s.model.cluster_features),
            "neither model.priors nor model.cluster_features look at high features",
        ),
        added=True,
    )
    cluster_features: str = setting(
        "high", "features that are clustered (Eq. 4)", rules.one_of("high", "middle")
    )
    kmeans_rounds: int = setting(
        10, "rounds of the clustering", rules.number(1), inert=_without_clustering
    )
    kmeans_init: str = setting(
        "farthest",
        "where the clustering starts",
        rules.one_of("farthest", "k-means++", "random"),
        inert=_without_clustering,
    )


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """Transforms of training images, in this order."""

    longer_side: int = setting(
        0, "resize images to this longer side first, in pixels; 0: leave them", rules.number(0)
    )
    scale: tuple[float, float] = setting((0.9, 1.1), "random scale; (1, 1): off", rules.interval())
    rotation: float = setting(10.0, "degrees to either side", rules.number(0, 180))
    rotation_probability: float = setting(0.5, "of a rotation", rules.number(0, 1))
    blur_probability: float = setting(0.5, "of a blur", rules.number(0, 1))
    mirror_probability: float = setting(0.5, "of a mirror image", rules.number(0, 1))
    crop: bool = setting(True, "crop at random; otherwise in the centre", rules.switch())


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The optimisation."""

    epochs: int = setting(
        200,
        "passes over the training list",
        rules.number(1),
        inert=lambda s: _unless(
            not s.training.steps, f"training.steps={s.training.steps} counts steps instead"
        ),
    )
    steps: int = setting(0, "steps instead of epochs, where above 0", rules.number(0))
    batch_size: int = setting(4, "episodes of a step", rules.number(1))
    learning_rate: float = setting(0.0025, "before the factor below", rules.number(0))
    rate_factor: float = setting(
        10.0, "of the learning rate; PFENet's code has 10 for heads", rules.number(0)
    )
    momentum: float = setting(0.9, "of SGD", rules.number(0, 1))
    weight_decay: float = setting(1e-4, "of SGD", rules.number(0))
    log_every: int = setting(50, "steps between log lines", rules.number(1), of_result=False)
    checkpoint_every: int = setting(
        500,
        "steps between checkpoints; also at each validation and at the end",
        rules.number(1),
        of_result=False,
    )


def _evaluation(default: Any, meaning: str, rule: Rule, **more: Any) -> Any:
    return setting(default, meaning, rule, of_result=False, **more)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Test episodes and how they are scored. A trained head does not depend on these."""

    shots: tuple[int, ...] = _evaluation((1, 5), "numbers of supports", rules.shots())
    episodes: int = _evaluation(5000, "test episodes at each shot", rules.number(1))
    seed: int = _evaluation(321, "of the test episodes", rules.number(0, 2**31 - 1))
    batch_size: int = _evaluation(8, "episodes compared together", rules.number(1))
    embed_once: bool = _evaluation(
        True, "each test image passes the backbone once, not once an episode", rules.switch()
    )
    device_gigabytes: float = _evaluation(
        4.0, "room for their features on each accelerator", rules.number(0)
    )
    memory_gigabytes: float = _evaluation(
        8.0, "room for them in memory; more of them go to disk", rules.number(0)
    )
    disk_gigabytes: float = _evaluation(
        30.0,
        "room for them on disk, where so much is free; what has no room is embedded again",
        rules.number(0),
        added=True,
    )
    stored: str = _evaluation(
        "computed",
        'type that they are kept and compared in: "computed", as the backbone gives them, '
        '"bfloat16" or "float16"',
        rules.one_of("computed", "bfloat16", "float16"),
        added=True,
    )
    once_on_accelerators: bool = _evaluation(
        False,
        "whether embed_once holds on accelerators too, where it was not measured",
        rules.switch(),
        added=True,
    )
    resize: str = _evaluation(
        "two_step",
        "of logits to the label's size: \"two_step\", to the network's input size and then to the "
        "label's as PFENet does, or \"one_step\", to the label's at once",
        rules.one_of("two_step", "one_step"),
        before="one_step",
    )
    every: int = _evaluation(
        0, "steps between validations, which choose the best checkpoint; 0: none", rules.number(0)
    )
    validation_episodes: int = _evaluation(1000, "episodes of a validation", rules.number(1))
    require_all_classes: bool = _evaluation(
        False, "refuse to score where a novel class has no test episode", rules.switch()
    )
    pictures: int = _evaluation(12, "episodes drawn as images", rules.number(0))
    bundled: int = _evaluation(
        0,
        "test images of each novel class on which the heads that come with the package are scored "
        "beside the run's; 0: none",
        rules.number(0),
        added=True,
    )
    checkpoint: str = _evaluation(
        "",
        "a PFENet's checkpoint or an exported head, scored instead of the run's own; {fold} stands "
        "for the fold's number",
        rules.path(),
    )
    list: str = _evaluation(
        "",
        "file of episodes to score, in place of those drawn by seed; {fold} stands for the fold's "
        "number",
        rules.path(),
    )
    write_episodes: bool = _evaluation(
        False, "leave each episode and its counts in a file", rules.switch()
    )


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """Features of the frozen backbone, kept on disk."""

    keep: bool = setting(False, "embed images once, then train on what was kept", rules.switch())
    views: int = setting(
        2, "augmented views of a training image", rules.number(1), inert=_without_keeping
    )
    seed: int = setting(
        -1,
        "of the augmentation: runs of several seeds that share it embed the images once; -1: the "
        "run's own",
        rules.number(0, 2**31 - 1, or_value=-1),
        inert=_without_keeping,
        added=True,
    )
    batch_size: int = setting(
        8, "images embedded together", rules.number(1), of_result=False, added=True
    )
    directory: str = setting(
        "", 'where they are kept; "": beside the records', rules.path(), of_result=False
    )


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """Several runs of one config."""

    folds: tuple[Any, ...] = _evaluation(
        (),
        "several in place of `fold`: folds=0+2, folds=all",
        rules.whole_numbers("several folds such as folds=0+1, or folds=all", or_value=("all",)),
    )
    seeds: tuple[int, ...] = _evaluation(
        (), "several in place of `seed`", rules.whole_numbers("several seeds such as seeds=0+1")
    )
    variants: tuple[str, ...] = _evaluation(
        (),
        "names of the `variants` to run; (): all",
        rules.names("names of the config's variants"),
    )
    side_by_side: bool = _evaluation(
        False,
        "train runs in one program that differ in seed, fold and lambda alone",
        rules.switch(),
    )


def _part(kind: type) -> Any:
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    seed: int = setting(0, "of the training", rules.number(0, 2**31 - 1))
    dataset: str = setting("", "its name in results.json", rules.text())
    fold: int = setting(
        0,
        "whose classes are novel; -1: none are, to train a head on all classes (--mode=train)",
        rules.number(0, or_value=NO_FOLD),
    )
    shot: int = setting(1, "supports of a training episode", rules.number(1))
    image_size: int = setting(
        473, "side of the square that the network sees, in pixels", rules.number(33)
    )
    data: DataSettings = _part(DataSettings)
    backbone: BackboneSettings = _part(BackboneSettings)
    model: ModelSettings = _part(ModelSettings)
    augmentation: AugmentationSettings = _part(AugmentationSettings)
    training: TrainingSettings = _part(TrainingSettings)
    evaluation: EvaluationSettings = _part(EvaluationSettings)
    features: FeatureSettings = _part(FeatureSettings)
    sweep: SweepSettings = _part(SweepSettings)
    variants: Mapping[str, str] = _part(dict)
    saved: bool = _evaluation(
        False, "read from a run's config.json: settings without effect stay", rules.switch()
    )
    compilation_cache: str = _evaluation(
        "~/.cache/apanet_jax", 'where compiled programs are kept; "": nowhere', rules.text()
    )
    deterministic: bool = _evaluation(
        True,
        "the same bits each time on a GPU too, at a tenth of a step's time",
        rules.switch(),
        before=False,
    )
    workers: int = _evaluation(
        0, "processes that load images; 0: threads of the main one", rules.number(0)
    )
    devices: int = _evaluation(0, "how many to use; 0: all", rules.number(0))
