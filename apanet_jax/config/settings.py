"""Settings of a run: options set by name, and checked before anything is compiled."""

import ast
import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from apanet_jax.runtime.errors import UserError

FILE = "config.json"
"""What a run leaves its settings in."""

_SINCE_THEN = {"deterministic": False}
"""Settings that older runs did not have, as they were."""

NO_CONFIG = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What making a config of a file that holds none may raise."""

NOT_OF_THE_RESULT = (
    "evaluation.",
    "features.directory",
    "workers",
    "compilation_cache",
    "deterministic",
    "devices",
    "data.records",
    "sweep.",
    "variants.",
    "training.log_every",
    "training.checkpoint_every",
)
"""Settings that may change between a run and its continuation: its parameters do not depend on
them. (Records count by their content's fingerprint, not by where they lie.)"""


def with_options(config: ConfigDict, options: str) -> ConfigDict:
    """Returns `config` with options such as "fold=2,model.num_clusters=5" set.

    Values are Python literals; anything else is a string. A tuple is written with plus signs:
    `evaluation.shots=1+5`.

    Raises:
      UserError: for an option that is not `key=value`, a key that does not exist, or a value of
        another type than the setting's.
    """
    for option in filter(None, options.split(",")):
        key, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"option {option!r} behind the config: expected key=value")
        set_field(config, key.strip(), text.strip())
    return config


def set_field(config: ConfigDict, key: str, text: str) -> None:
    """Sets the field `key` of `config` to what `text` says.

    `key` is a dotted path, or a path's last name where only one field has it, or a section's name
    for the `name` in it (`backbone=resnet101`).
    """
    flat = dict(flat_fields(config))
    named = [p for p in flat if p == key] or [
        p for p in flat if p.endswith(f".{key}") or p == f"{key}.name"
    ]
    if len(named) > 1:
        raise UserError(f"{key!r} could mean {' or '.join(sorted(named))}: write which")
    if not named:
        raise UserError(no_field(key, flat))
    path = named[0]
    old = flat[path]
    value = _literal(text)
    if isinstance(old, tuple):
        value = tuple(_literal(part) for part in text.split("+")) if text else ()
    elif isinstance(old, str):
        value = text
    elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise UserError(
            f"config field {path!r} was given {text!r}, expected {type(old).__name__} (now {old!r})"
        )
    with config.unlocked():
        config.update_from_flattened_dict({path: value})


def no_field(key: str, paths: Iterable[str]) -> str:
    """Returns what to say of a field that is none of `paths`, with the one that is near it."""
    short = {p.rpartition(".")[2]: p for p in paths} | {p: p for p in paths}
    near = difflib.get_close_matches(key, short, n=1)
    hint = f"; did you mean {short[near[0]]!r}?" if near else ""
    return f"the config has no field {key!r}{hint}"


def flat_fields(config: ConfigDict, prefix: str = ""):
    """Yields (dotted path, value) of every field of `config`."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def without_paths(config: ConfigDict) -> ConfigDict:
    """Returns a copy that names no file of this machine's data, features or checkpoints."""
    copy = config.copy_and_resolve_references()
    copy.data.records = copy.features.directory = ""
    copy.evaluation.checkpoint = copy.evaluation.list = ""
    return copy


def fingerprint(config: ConfigDict, *others: str) -> str:
    """Returns a hash of the settings that a run's parameters depend on, and of `others`."""
    kept = {k: v for k, v in flat_fields(config) if not k.startswith(NOT_OF_THE_RESULT)}
    text = json.dumps([kept, others], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(text: str) -> ConfigDict:
    """Returns the config that a run left as `config.json`.

    Raises:
      ValueError: this is no config.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("expected an object")
    return ConfigDict(_SINCE_THEN | _with_tuples(content))


def of_run(workdir: Path) -> ConfigDict:
    """Returns the config that a single run left in its workdir.

    Raises:
      UserError: there is none, or it cannot be read; names the runs below, where there are any.
    """
    path = workdir / FILE
    try:
        return from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        runs = sorted(str(p.parent) for p in workdir.glob(f"**/{FILE}"))
        hint = f"; it holds several runs: {', '.join(runs[:4])}" if runs else ""
        raise UserError(f"--workdir={workdir} is no run, {FILE} is missing{hint}") from None
    except (OSError, *NO_CONFIG) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _with_tuples(value: Any) -> Any:
    """Turns JSON's lists back into tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check(config: ConfigDict) -> None:
    """Refuses settings that cannot work.

    Raises:
      UserError: names the first such field, its value, and what was expected.
    """
    fields = dict(flat_fields(config))
    for key, (holds, expected) in _RULES.items():
        if key not in fields:
            raise UserError(f"the config has no field {key!r}: it is of another version")
        value = fields[key]
        if not _holds(holds, value):
            raise UserError(f"config field {key!r} is {value!r}, expected {expected}")
    if config.features.keep and config.model.masked_support:
        raise UserError(
            "features.keep needs model.masked_support=False: a masked support has other features "
            "for every class, and only whole pictures are kept"
        )
    if config.model.num_clusters == 0 and config.model.agnostic_weight == 1.0:
        raise UserError("model.agnostic_weight=1 with model.num_clusters=0 leaves nothing to learn")
    regions, count = config.model.regions, config.model.num_clusters
    if regions == "grid" and math.isqrt(count) ** 2 != count:
        raise UserError(
            f"model.regions='grid' with model.num_clusters={count}: expected a square number of "
            "cells, such as 4, 9 or 16"
        )
    if regions == "support" and count != 1:
        raise UserError(
            f"model.regions='support' with model.num_clusters={count}: the supports' background "
            "makes one prototype, take num_clusters=1"
        )


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    """Whether `value` obeys a rule; what is of another kind altogether does not."""
    try:
        return bool(rule(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _number(low: float, high: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    def holds(value) -> bool:
        return math.isfinite(value) and low <= value <= high

    return holds, f"a number from {low} to {high}" if high < math.inf else f"at least {low}"


def _switch() -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, bool), "True or False"


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in choices, "one of " + ", ".join(map(repr, choices))


def _whole_numbers(values) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


def _is_bins(value) -> bool:
    """Whether `value` can be a pyramid level: cells a side, or a fraction of the features'."""
    return isinstance(value, int | float) and (
        0 < value <= 1 or (isinstance(value, int) and value > 1)
    )


def _range() -> tuple[Callable[[Any], bool], str]:
    def holds(value) -> bool:
        return len(value) == 2 and all(map(math.isfinite, value)) and 0 < value[0] <= value[1]

    return holds, "two numbers above 0, the smaller first"


_PRIORS = ("high", "middle", "block4", "block3", "contrast")

_RULES = {
    "seed": _number(0, 2**31 - 1),
    "fold": _number(0),
    "shot": _number(1),
    "image_size": _number(33),
    "data.min_area": _number(0),
    "data.support_gap": _number(0),
    "data.hidden_share": _number(-1, 1),
    "backbone.name": _one_of("efficientnet_lite0", "resnet50", "resnet101", "vgg16", "vgg16_bn"),
    "backbone.stem": _one_of("deep", "plain"),
    "backbone.dtype": _one_of("float32", "bfloat16"),
    "model.comparison": _one_of("conv", "fem"),
    "model.pyramid_bins": (
        lambda value: len(value) > 0 and all(map(_is_bins, value)),
        "a tuple of whole numbers above 1 (cells a side) or fractions up to 1 (of the features)",
    ),
    "model.level_weight": _number(0),
    "model.agnostic_levels": _switch(),
    "model.channels": _number(1),
    "model.num_clusters": _number(0),
    "model.regions": _one_of("kmeans", "grid", "support"),
    "model.foreground_prototypes": _number(1, 16),
    "model.negatives": _number(1),
    "model.resemblance_limit": _number(-1, 1),
    "model.agnostic_weight": _number(0, 1),
    "model.priors": (
        lambda value: set(value) <= set(_PRIORS) and len(set(value)) == len(value),
        f"a tuple of some of {_PRIORS}, each once",
    ),
    "model.agnostic_prior": _one_of("complement", "same", "zeros"),
    "model.prior_scale": _number(0),
    "model.stretch_prior": _switch(),
    "model.masked_support": _switch(),
    "model.unit_features": _switch(),
    "model.shared_reduction": _switch(),
    "model.reduction_dropout": _number(0, 0.99),
    "model.comparison_dropout": _number(0, 0.99),
    "model.cluster_features": _one_of("high", "middle"),
    "model.kmeans_rounds": _number(1),
    "model.kmeans_init": _one_of("farthest", "k-means++", "random"),
    "augmentation.longer_side": _number(0),
    "augmentation.scale": _range(),
    "augmentation.rotation": _number(0, 180),
    "augmentation.rotation_probability": _number(0, 1),
    "augmentation.blur_probability": _number(0, 1),
    "augmentation.mirror_probability": _number(0, 1),
    "augmentation.crop": _switch(),
    "training.epochs": _number(1),
    "training.steps": _number(0),
    "training.batch_size": _number(1),
    "training.learning_rate": _number(0),
    "training.rate_factor": _number(0),
    "training.momentum": _number(0, 1),
    "training.weight_decay": _number(0),
    "training.log_every": _number(1),
    "training.checkpoint_every": _number(1),
    "evaluation.shots": (
        lambda value: len(value) > 0 and all(isinstance(k, int) and k >= 1 for k in value),
        "a tuple of shots, each at least 1",
    ),
    "evaluation.episodes": _number(1),
    "evaluation.seed": _number(0, 2**31 - 1),
    "evaluation.batch_size": _number(1),
    "evaluation.embed_once": _switch(),
    "evaluation.device_gigabytes": _number(0),
    "evaluation.memory_gigabytes": _number(0),
    "evaluation.every": _number(0),
    "evaluation.validation_episodes": _number(1),
    "evaluation.pictures": _number(0),
    "evaluation.write_episodes": _switch(),
    "features.keep": _switch(),
    "sweep.folds": (
        lambda value: value == ("all",) or _whole_numbers(value),
        "several folds such as folds=0+1, or folds=all",
    ),
    "sweep.side_by_side": _switch(),
    "sweep.seeds": (_whole_numbers, "several seeds such as seeds=0+1"),
    "sweep.variants": (
        lambda value: all(isinstance(name, str) for name in value),
        "names of the config's variants",
    ),
    "features.views": _number(1),
    "deterministic": _switch(),
    "workers": _number(0),
    "devices": _number(0),
}
