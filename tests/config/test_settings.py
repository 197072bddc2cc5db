"""Options by name, and settings that are refused."""

from pathlib import Path

import pytest

from apanet_jax.config.options import flat_fields
from apanet_jax.config.settings import check, expand_home, typed, with_options
from apanet_jax.config.settings import fingerprint as settings_fingerprint
from apanet_jax.runtime.errors import UserError
from configs import coco, common, compare, folder, pascal, quickstart


@pytest.mark.parametrize("module", [coco, common, compare, folder, pascal, quickstart])
def test_every_config_passes_its_own_check(module):
    check(module.get_config())


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        ("fold=2", "fold", 2),
        ("num_clusters=5", "model.num_clusters", 5),
        ("backbone=resnet101", "backbone.name", "resnet101"),
        ("evaluation.shots=1+5", "evaluation.shots", (1, 5)),
        ("shots=5", "evaluation.shots", (5,)),
        ("priors=", "model.priors", ()),
        ("priors=high+middle", "model.priors", ("high", "middle")),
        ("priors=block3+block4", "model.priors", ("block3", "block4")),
        ("comparison=fem", "model.comparison", "fem"),
        ("pyramid_bins=1+0.5+0.25", "model.pyramid_bins", (1, 0.5, 0.25)),
        ("learning_rate=1", "training.learning_rate", 1.0),
        ("keep=True", "features.keep", True),
        ("records=some/dir,fold=1", "data.records", "some/dir"),
    ],
)
def test_options_set_fields(options, path, value):
    config = with_options(common.get_config(), options)
    assert dict(flat_fields(config))[path] == value


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("fold", "key=value"),
        ("fodl=1", "did you mean 'fold'"),
        ("num_cluster=1", "did you mean 'model.num_clusters'"),
        ("fold=two", "expected int"),
        ("fold=1.5", "expected int"),
        ("batch_size=4", "evaluation.batch_size or features.batch_size or training.batch_size"),
        ("crop=1", "expected bool"),
    ],
)
def test_options_that_cannot_be_set_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        with_options(common.get_config(), options)


@pytest.mark.parametrize(
    "options",
    [
        "fold=-2",
        "shot=0",
        "backbone=resnet18",
        "agnostic_weight=1.5",
        "agnostic_weight=nan",
        "agnostic_weight=1e999",
        "learning_rate=nan",
        "learning_rate=-1.0",
        "augmentation.scale=1.1+0.9",
        "mirror_probability=2.0",
        "evaluation.shots=0",
        "priors=high+high",
        "priors=low",
        "priors=block4+block4",
        "foreground_prototypes=0",
        "foreground_prototypes=17",
        "kmeans_init=kmeans++",
        "comparison=pyramid",
        "comparison=fem,pyramid_bins=60+0",
        "comparison=fem,pyramid_bins=60+7.5",
        "pyramid_bins=one",
        "level_weight=-1.0",
        "training.batch_size=0",
        "keep=True",
        "num_clusters=0,agnostic_weight=1.0",
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(options):
    with pytest.raises(UserError) as refused:
        check(with_options(common.get_config(), options))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "stem"),
    [
        ("", "plain"),
        ("backbone=resnet101,comparison=fem", "plain"),
        ("checkpoint=head/model.safetensors", "plain"),
        ("weights=resnet50_v2.pth", "deep"),
        ("weights=resnet50_v2.pth,stem=plain", "plain"),
        ("checkpoint=DIR/split{fold}.pth", "deep"),
        ("backbone=vgg16", "deep"),
        ("stem=deep", "deep"),
    ],
)
def test_a_resnet_has_the_stem_of_its_weights(options, stem):
    """The documented command had the deep stem and, from the hub, weights of the plain one."""
    for config in (pascal.get_config(options), coco.get_config(options)):
        check(config)
        assert config.backbone.stem == stem
        saved = config.copy_and_resolve_references()
        with saved.unlocked():
            saved.saved = True
        assert with_options(saved, "checkpoint=other.pth").backbone.stem == stem
    if options.startswith("backbone=resnet101"):
        assert folder.get_config(options).backbone.stem == stem


def test_fingerprint_tells_settings_apart_that_change_the_result():
    def fingerprint(options, *others):
        return settings_fingerprint(typed(with_options(common.get_config(), options)), *others)

    assert fingerprint("") == fingerprint("")
    assert fingerprint("") == fingerprint("workers=3,evaluation.episodes=7,log_every=9")
    assert fingerprint("") != fingerprint("seed=1")
    assert fingerprint("") != fingerprint("num_clusters=2")
    assert fingerprint("") != fingerprint("", "other data")


@pytest.mark.parametrize(
    ("options", "folds", "seeds"),
    [("folds=0+2", (0, 2), ()), ("folds=all", ("all",), ()), ("seeds=3+1", (), (3, 1))],
)
def test_sweeps_are_asked_for_by_name(options, folds, seeds):
    config = with_options(common.get_config(), options)
    check(config)
    assert (config.sweep.folds, config.sweep.seeds) == (folds, seeds)


@pytest.mark.parametrize("options", ["folds=some", "folds=0+all", "seeds=-1", "seeds=0.5+1"])
def test_sweeps_that_cannot_be_run_are_refused(options):
    with pytest.raises(UserError, match="several"):
        check(with_options(common.get_config(), options))


def test_the_home_folder_is_meant_by_its_sign_in_every_path(monkeypatch, tmp_path):
    """Behind an equals sign the shell leaves it: records in a folder called ~ were looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {
        "data.records": "~/records",
        "backbone.weights": "~/w.pth",
        "evaluation.checkpoint": "~/heads/{fold}",
        "evaluation.list": "~",
        "features.directory": "~/kept",
    }
    options = ",".join(f"{name}={path}" for name, path in paths.items())
    config = with_options(common.get_config(), options)
    expand_home(config)
    given = dict(flat_fields(config))
    for name, path in paths.items():
        assert given[name] == path.replace("~", str(tmp_path))
    named = with_options(common.get_config(), "weights=pip,records=a~b")
    expand_home(named)
    assert (named.backbone.weights, named.data.records) == ("pip", "a~b")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(UserError, match="there is no home folder"):
        expand_home(with_options(common.get_config(), options))


def no_home(_):
    raise RuntimeError("Could not determine home directory.")
