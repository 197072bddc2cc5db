"""Settings that another one leaves without effect, and the values that configs of a run keep."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from apanet_jax.config.options import flat_fields
from apanet_jax.config.recipes import recipe, recipes
from apanet_jax.config.saved import from_json, json_settings
from apanet_jax.config.settings import (
    check,
    default_config,
    definitions,
    fingerprint,
    typed,
    unused_by_baseline,
    with_options,
)
from apanet_jax.models.backbones import BACKBONES
from apanet_jax.runs.sweep import _headline
from apanet_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("pyramid_bins=30+15", "pyramid_bins.*comparison='conv'"),
        ("level_weight=2.0", "level_weight.*comparison='conv'"),
        ("agnostic_levels=False", "agnostic_levels.*comparison='conv'"),
        ("regions=grid,num_clusters=4,kmeans_rounds=3", "kmeans_rounds.*regions='grid'"),
        ("regions=support,num_clusters=1,kmeans_init=random", "kmeans_init.*regions='support'"),
        ("backbone=vgg16,stem=plain", "stem.*one stem"),
        ("steps=5,epochs=3", "epochs.*steps=5"),
        ("negatives=4", "negatives.*num_clusters=3"),
        ("bandwidth=0.1", "bandwidth.*no density ratio"),
        ("priors=contrast,stretch_prior=False", "stretch_prior.*no mask that is stretched"),
        ("views=4", "views.*keep=False"),
        ("features.seed=4", "seed.*keep=False"),
        ("priors=middle,cluster_features=middle,debias=9", "debias.*high features"),
    ],
)
def test_a_setting_without_effect_is_refused_in_one_line(options, says):
    with pytest.raises(UserError, match=says) as refused:
        check(with_options(default_config(), options))
    assert "\n" not in str(refused.value) and "its default is" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ("num_clusters=0", []),
        (
            "num_clusters=0,kmeans_init=random,agnostic_prior=same",
            ["agnostic_prior", "kmeans_init"],
        ),
        ("num_clusters=0,regions=grid,resemblance_limit=0.5", ["regions", "resemblance_limit"]),
        (
            "num_clusters=0,agnostic_weight=0.3,kmeans_rounds=3",
            ["agnostic_weight", "kmeans_rounds"],
        ),
        ("num_clusters=0,query_clusters=4,kmeans_rounds=3", []),
        ("kmeans_init=random,agnostic_prior=same", []),
    ],
)
def test_what_the_baseline_ignores_is_said_and_kept(options, unused):
    """Not refused: a sweep's baseline shares settings with the runs beside it."""
    settings = typed(with_options(default_config(), options))
    assert unused_by_baseline(settings) == [f"model.{name}" for name in unused]
    run = SimpleNamespace(
        settings=settings, steps=1, mesh=Mesh(np.array(jax.devices()[:1]), ("data",))
    )
    (_, *more) = _headline("run", run).splitlines()
    assert len(more) == bool(unused) and all(name in more[0] for name in unused)


@pytest.mark.parametrize("share", [-0.5, -2.0, 1.5])
def test_a_share_is_from_0_to_1_or_says_that_all_images_are_used(share):
    with pytest.raises(UserError, match="hidden_share.*-1 or a number from 0 to 1"):
        check(with_options(default_config(), f"hidden_share={share}"))


def test_a_saved_config_keeps_what_has_no_effect_but_takes_no_more_of_it():
    content = json_settings(typed(default_config()))
    content["model"]["level_weight"] = 0.5
    saved = from_json(json.dumps(content))
    assert typed(saved).model.level_weight == 0.5
    with pytest.raises(UserError, match="agnostic_levels.*no effect"):
        with_options(saved, "agnostic_levels=False")


def test_an_option_resets_what_it_leaves_without_effect_in_the_config_itself():
    config = recipe("coco", "steps=100")
    check(config)
    assert config.training.epochs == 200 and recipe("coco").training.epochs == 50
    with pytest.raises(UserError, match="epochs"):
        check(recipe("coco", "steps=100,epochs=20"))


@pytest.mark.parametrize("dataset", ["", "coco"])
def test_pyramid_levels_are_pfenets_for_the_data_set(dataset):
    config = with_options(default_config(), f"comparison=fem,dataset={dataset}")
    expected = (1.0, 0.5, 0.25, 0.125) if dataset else (60, 30, 15, 8)
    assert typed(config).model.pyramid_bins == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_may_be_named_in_every_config(name):
    for path, _ in recipes():
        if path.stem != "saved":
            check(recipe(path.stem, f"backbone={name}"))


def test_a_size_that_was_chosen_is_not_changed_for_the_backbone():
    with pytest.raises(UserError, match="multiples of 14.*462x462 or 476x476"):
        check(with_options(default_config(), "backbone=dinov2_vits14,image_size=473"))


def test_a_config_of_before_there_was_a_setting_is_as_runs_were_then():
    content = json_settings(typed(default_config()))
    del content["deterministic"], content["data"]["training_list"]
    older = typed(from_json(json.dumps(content)))
    assert not older.deterministic and older.data.training_list == "all"
    assert fingerprint(older) == fingerprint(typed(default_config()))


# Of configs at a version that had no settings with `added`: what continued runs compare with.
FINGERPRINTS = {
    "pascal": "bceab434ebdd94ac5c7922c519a8471d91082422e659cd99d1f5c80b536bf104",
    "coco": "87638c7e972b37f8288fde4624bd2551c488fa2d8e0a6281694bfa1efbfe0a97",
    "folder": "b81c58382910392afd13c9f6914ff9857762015044560eec33a512f0180a0c23",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_are_those_of_runs_that_exist(name):
    # Then the benchmarks' configs had the deep stem, which the usual weights have not.
    options = "" if name == "folder" else "stem=deep"
    assert fingerprint(typed(recipe(name, options)), "a") == FINGERPRINTS[name]


def test_an_added_setting_changes_the_fingerprint_only_off_its_default():
    config = default_config()
    before = fingerprint(typed(config))
    assert fingerprint(typed(with_options(config, "training_list=no_novel"))) != before


def test_every_setting_has_a_meaning_and_a_default_that_its_rule_allows():
    fields = dict(flat_fields(default_config()))
    for name, field in definitions():
        assert field.metadata["meaning"] and field.metadata["rule"].allows(fields[name])
