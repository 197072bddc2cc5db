"""From a config that a person edits to typed settings: defaults, checks, and fingerprints."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from apanet_jax.config import rules
from apanet_jax.config.definitions import COCO_BINS, PASCAL_BINS, Settings
from apanet_jax.config.options import flat_fields, set_options
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.paths import given_path

_CLASS_AGNOSTIC = (
    *("regions", "resemblance_limit", "agnostic_weight", "agnostic_prior", "agnostic_levels"),
    *("kmeans_init", "kmeans_rounds"),
)
"""Settings of the model that only its class-agnostic branch reads."""

_HEAD_ALONE = ".safetensors"
"""What an exported head's file ends in, which holds no backbone."""


def default_config() -> ConfigDict:
    """Returns every setting with its default, to be edited."""
    return ConfigDict(dataclasses.asdict(Settings()))


def definitions(kind: type = Settings, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Yields the dotted name and the field of every setting."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from definitions(field.type, f"{prefix}{field.name}.")
        elif "rule" in field.metadata:
            yield prefix + field.name, field


def typed(config: ConfigDict) -> Settings:
    """Returns the settings of a config, checked, with what depends on the data set filled in.

    Settings that the config lacks have the value that runs had before there was the setting.

    Raises:
      UserError: see `check`.
    """
    check(config)
    return _settings(config)


def check(config: ConfigDict) -> None:
    """Refuses settings that cannot work.

    Raises:
      UserError: names the first such setting, its value, and what was expected; or a setting that
        is not at its default and has no effect beside the others, unless a saved config has it.
    """
    given = dict(flat_fields(config))
    for name, field in definitions():
        rule = field.metadata["rule"]
        value = given.get(name, field.metadata["before"])
        if not rule.allows(value):
            raise UserError(f"config field {name!r} is {value!r}, expected {rule.says}")
    settings = _settings(config)
    if not config.get("saved", False):
        refuse_inert(config, dict(inert_fields(config)))
    _check_together(settings)


def expand_home(config: ConfigDict) -> None:
    """Puts the home folder in the place of `~` in the paths of a config, as shells do.

    Raises:
      UserError: there is no home folder.
    """
    for name, field in definitions():
        value = dict(flat_fields(config)).get(name)
        if field.metadata["rule"].is_path and str(value).startswith("~"):
            config.update_from_flattened_dict({name: str(given_path(value))})


def inert_fields(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yields the settings that are not at their default and have no effect, each with the reason.

    A config whose values are not allowed has none: see `check`.
    """
    given = dict(flat_fields(config))
    if not all(
        field.metadata["rule"].allows(given.get(name, field.default))
        for name, field in definitions()
    ):
        return
    settings, inert = _settings(config), {n: f.metadata["inert"] for n, f in definitions()}
    for name, value, default in values(settings):
        if inert[name] and value != default and (reason := inert[name](settings)):
            yield name, reason


def refuse_inert(config: ConfigDict, inert: dict[str, str]) -> None:
    """Refuses the first of some settings without effect (names and reasons).

    Raises:
      UserError: there is one.
    """
    for name, reason in inert.items():
        default = dict(definitions())[name].default
        value = dict(flat_fields(config))[name]
        raise UserError(
            f"config field {name!r} is {value!r} and has no effect: {reason}; leave it out "
            f"(its default is {default!r})"
        )


def unused_by_baseline(settings: Settings) -> list[str]:
    """Returns the settings off their default that a run without a class-agnostic branch ignores.

    They are no error: a sweep's baseline shares them with the runs beside it, and its fingerprint
    holds them.
    """
    model, names = settings.model, {f"model.{name}" for name in _CLASS_AGNOSTIC}
    if model.query_clusters:
        names.remove("model.kmeans_rounds")
    off_default = [n for n, value, default in values(settings) if value != default and n in names]
    return [] if model.num_clusters else off_default


def with_options(config: ConfigDict, options: str) -> ConfigDict:
    """Returns `config` with options such as "fold=2,model.num_clusters=5" set: see `set_options`.

    A value of the config's own that an option leaves without effect goes back to its default:
    `configs/coco.py:steps=100` counts steps, whatever epochs that config has. With another backbone
    the image's size becomes the nearest that the backbone takes.

    Raises:
      UserError: an option cannot be set, or has no effect in a saved config.
    """
    before = set(dict(inert_fields(config)))
    chosen = set_options(config, options)
    settle_inert(config, before, chosen)
    return config


def settle_inert(config: ConfigDict, before: set[str], chosen: list[str]) -> None:
    """Brings a config in line with the settings that were just chosen, and leaves those alone.

    Settings that have lost their effect since `before` are reset, and what a chosen backbone cannot
    do is replaced by what it can.

    Args:
      config: it is changed.
      before: names of the settings that had no effect before.
      chosen: names of the settings that somebody has just set.

    Raises:
      UserError: the config is a saved one, and a chosen setting has no effect in it.
    """
    if "backbone.name" in chosen:
        _suit_backbone(config, chosen)
    _suit_stem(config, chosen)
    inert = dict(inert_fields(config))
    defaults = {name: field.default for name, field in definitions()}
    lost = inert.keys() - before - set(chosen)
    with config.unlocked():
        config.update_from_flattened_dict({name: defaults[name] for name in lost})
    if config.get("saved", False):
        refuse_inert(config, {name: why for name, why in inert.items() if name in chosen})


def _suit_backbone(config: ConfigDict, chosen: list[str]) -> None:
    """Gives a config what the chosen backbone needs, but for settings that were chosen too."""
    name = config.backbone.name
    if not rules.backbone().allows(name):
        return
    size, has_last_block = rules.suited(name, config.image_size)
    with config.unlocked():
        if "image_size" not in chosen:
            config.image_size = size
        if "model.masked_support" not in chosen and not has_last_block:
            config.model.masked_support = False


def _suit_stem(config: ConfigDict, chosen: list[str]) -> None:
    """Gives a ResNet the stem of the weights that it will have, unless the stem was chosen too.

    The usual weights are torchvision's, with the plain stem; PSPNet's files and PFENet's
    checkpoints have the deep one. A saved config has the stem that its run had.
    """
    decisive = {"backbone.name", "backbone.weights", "evaluation.checkpoint"}
    name = config.backbone.name
    if config.get("saved", False) or "backbone.stem" in chosen or not decisive & set(chosen):
        return
    if not rules.backbone().allows(name):
        return
    head_alone = str(config.evaluation.checkpoint or _HEAD_ALONE).endswith(_HEAD_ALONE)
    usual = rules.stems(name) and not config.backbone.weights and head_alone
    config.backbone.stem = "plain" if usual else "deep"


def _check_together(settings: Settings) -> None:
    model = settings.model
    rules.check_image_size(settings.backbone.name, settings.image_size)
    _check_clusters(settings)
    if settings.features.keep and model.masked_support:
        raise UserError(
            "features.keep needs model.masked_support=False: a masked support has other features "
            "for every class, and only whole images are kept"
        )
    if model.num_clusters == 0 and model.agnostic_weight == 1.0:
        raise UserError("model.agnostic_weight=1 with model.num_clusters=0 leaves nothing to learn")
    if model.regions == "grid" and math.isqrt(model.num_clusters) ** 2 != model.num_clusters:
        raise UserError(
            f"model.regions='grid' with model.num_clusters={model.num_clusters}: expected a square "
            "number of parts, such as 4, 9 or 16"
        )
    if model.regions == "support" and model.num_clusters != 1:
        raise UserError(
            f"model.regions='support' with model.num_clusters={model.num_clusters}: the supports' "
            "background makes one prototype, take num_clusters=1"
        )


def _check_clusters(settings: Settings) -> None:
    """Refuses more clusters than a feature map has positions."""
    model, most = settings.model, rules.positions(settings.backbone.name, settings.image_size)
    names = ["query_clusters", "foreground_prototypes"]
    if model.regions == "kmeans":
        names.append("num_clusters")
    for name in names:
        if (count := getattr(model, name)) > most:
            raise UserError(
                f"model.{name}={count}: the feature map of {settings.backbone.name} has {most} "
                f"positions at image_size={settings.image_size}, take fewer or larger images"
            )


def _settings(config: ConfigDict, *, before: bool = True) -> Settings:
    settings = _from_dict(Settings, config.to_dict(), "before" if before else "default")
    if not settings.model.pyramid_bins:
        bins = COCO_BINS if settings.dataset == "coco" else PASCAL_BINS
        model = dataclasses.replace(settings.model, pyramid_bins=bins)
        settings = dataclasses.replace(settings, model=model)
    return settings


def _from_dict(kind: type, given: dict[str, Any], otherwise: str) -> Any:
    """Returns settings with the values that are given, and otherwise "before" or "default"."""
    values = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            values[field.name] = _from_dict(field.type, given.get(field.name, {}), otherwise)
        elif "rule" in field.metadata:
            value = field.metadata["before"] if otherwise == "before" else field.default
            values[field.name] = given.get(field.name, value)
        else:
            values[field.name] = given.get(field.name, {})
    return kind(**values)


def fingerprint(settings: Settings, *others: str) -> str:
    """Returns a hash of the settings that a run's parameters depend on, and of `others`.

    Settings that came later are left out where they are as runs were before; so they change no
    fingerprint of those runs.
    """
    kept = {}
    for name, field in definitions():
        value = _value(settings, name)
        as_before = field.metadata["added"] and value == field.metadata["before"]
        if field.metadata["of_result"] and not as_before:
            kept[name] = value
    text = json.dumps([kept, others], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def values(settings: Settings) -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted name of every setting, its value, and its default."""
    defaults = _settings(ConfigDict({"dataset": settings.dataset}), before=False)
    for name, _ in definitions():
        if name != "saved":
            yield name, _value(settings, name), _value(defaults, name)


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
