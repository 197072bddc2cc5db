"""Evaluation that embeds once against the path that embeds every episode anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.evaluation import embed_once
from apanet_jax.evaluation.feature_store import FeatureStore
from apanet_jax.runs.run import RunMaker, make_run
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.train_step import create_state, optimizer, poly_schedule
from configs import folder
from tests.small_backbone import OPTIONS

pytestmark = pytest.mark.usefixtures("small_backbone")

TINY = f"{OPTIONS},training.batch_size=8,evaluation.batch_size=8,shots=1+3,keep=False,workers=0"
EPISODES = 21

MASKED = "masked_support=True,priors=high,prior_scale=1.0"


def run_of(prepared, options, make=make_run):
    return make(folder.get_config(f"{TINY},records={prepared},{options}"))


def head_of(run, seed=0):
    state = create_state(
        run.network,
        run.loaded.backbone_parameters,
        run.settings.image_size,
        optimizer(poly_schedule(0.1, 10)),
        jax.random.key(seed),
        run.programs,
    )
    # An untrained head finds everything or nothing: half of what it sees shall be foreground.
    with run.data.test_batches(1, range(8)) as batches:
        network = jax.jit(run.network.__call__)
        logits = network(state.parameters, run.loaded.backbone_parameters, next(batches)).logits
    output = state.parameters["comparison"]["output"]
    output = output.get("output", output)
    output["bias"] += np.array([0, -np.median(logits[..., 1] - logits[..., 0])], np.float32)
    return state.parameters


def both(run, parameters, shot):
    once = run.evaluator.count(parameters, shot, EPISODES)
    settings = run.evaluator.settings
    run.evaluator.settings = dataclasses.replace(settings, embed_once=False)
    each_time = run.evaluator.count(parameters, shot, EPISODES)
    run.evaluator.settings = settings
    return once, each_time


@pytest.mark.parametrize(
    "options",
    [
        MASKED,
        pytest.param(f"{MASKED},comparison=fem,pyramid_bins=4+0.5", marks=pytest.mark.slow),
        pytest.param("priors=middle+high,masked_support=True", marks=pytest.mark.slow),
        pytest.param("priors=high,stretch_prior=False", marks=pytest.mark.slow),
        pytest.param("priors=", marks=pytest.mark.slow),
        pytest.param("priors=middle+contrast+density_ratio", marks=pytest.mark.slow),
        pytest.param("priors=block3+block4+high,masked_support=True", marks=pytest.mark.slow),
        "foreground_prototypes=3,priors=middle",
        pytest.param(
            "foreground_prototypes=2,comparison=fem,pyramid_bins=4+0.5,priors=contrast",
            marks=pytest.mark.slow,
        ),
        pytest.param("keep=True", marks=pytest.mark.slow),
        pytest.param("shared_reduction=True,devices=1", marks=pytest.mark.slow),
    ],
)
def test_every_episode_has_the_same_counts(prepared, options):
    run = run_of(prepared, options)
    parameters = head_of(run)
    for shot in (1, 3):
        (once, classes), (anew, expected_classes) = both(run, parameters, shot)
        np.testing.assert_array_equal(classes, expected_classes)
        for ours, expected in zip(once, anew, strict=True):
            # Sums in another order may tip a pixel whose two logits are equal but for rounding.
            assert np.abs(ours - expected).sum() <= 4
        assert 0 < anew.union[:, 1].min() and len(np.unique(once.union[:, 1])) > 3


@pytest.mark.slow
def test_each_picture_passes_the_backbone_once(prepared, monkeypatch):
    make = RunMaker().make
    run = run_of(prepared, MASKED, make)
    embedded = []
    original = embed_once.load_test_view

    def noted(split, size, pictures, index, **options):
        embedded.append(pictures[index])
        return original(split, size, pictures, index, **options)

    monkeypatch.setattr(embed_once, "load_test_view", noted)
    for seed in (0, 1):
        for shot in (1, 3):
            run.evaluator.embed(EPISODES)
            run.evaluator.count(head_of(run, seed), shot, EPISODES)
    assert len(embedded) <= len(run.records.split("val")) + run.settings.evaluation.batch_size
    count = len(embedded)
    # Another fold asks for other classes of the same pictures.
    other = run_of(prepared, MASKED + ",fold=1,shots=1", make)
    other.evaluator.count(head_of(run), 1, 4)
    assert len(embedded) <= count + 4 * 2 + run.settings.evaluation.batch_size


@pytest.mark.slow
def test_kept_pictures_do_not_pass_the_backbone_again(prepared, monkeypatch):
    run = run_of(prepared, "keep=True")
    run.data.kept_test_features()
    monkeypatch.setattr(embed_once, "load_test_view", None)
    counts, _ = run.evaluator.count(head_of(run), 1, EPISODES)
    assert counts.union[:, 1].all()


def test_what_memory_has_no_room_for_is_read_from_disk(tmp_path):
    store = FeatureStore(device_bytes=0, memory_bytes=100, directory=tmp_path)
    rng = np.random.default_rng(0)
    arrays = {key: {"a": rng.normal(size=8), "b": rng.normal(size=2)} for key in range(4)}
    for key, kept in arrays.items():
        store.put(("image", key), kept)
    assert len(list(tmp_path.glob("*/*.npy"))) == 6
    for key, kept in arrays.items():
        for name, array in store.get(("image", key)).items():
            np.testing.assert_array_equal(array, kept[name])
    assert ("image", 3) in store and ("picture", 4) not in store


def test_the_device_has_the_first_budget_and_memory_the_second(tmp_path):
    store = FeatureStore(device_bytes=8, memory_bytes=8, directory=tmp_path)
    for key in range(3):
        store.put(("image", key), {"a": np.full(2, key, np.float32)})
    kinds = [type(store.get(("image", key))["a"]) for key in range(3)]
    assert issubclass(kinds[0], jax.Array) and kinds[1:] == [np.ndarray, np.memmap]
    assert not store.offer(("prior", 0), {"prior": np.zeros(1, np.float32)})
    assert ("prior", 0) not in store


def test_bfloat16_comes_back_from_disk(tmp_path):
    store = FeatureStore(device_bytes=0, memory_bytes=0, directory=tmp_path)
    array = np.arange(6).reshape(2, 3).astype(jnp.bfloat16)
    store.put(("image", 0), {"a": array})
    back = store.get(("image", 0))["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.slow
def test_counts_do_not_depend_on_the_memory(prepared, tmp_path):
    found = []
    for memory in ("8.0", "0.0"):
        run = run_of(prepared, f"{MASKED},memory_gigabytes={memory},directory={tmp_path}")
        found.append(run.evaluator.count(head_of(run), 3, EPISODES)[0])
    np.testing.assert_array_equal(found[0].union, found[1].union)
    assert list(tmp_path.glob("features-*/*.npy"))


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    store = FeatureStore(device_bytes=0, memory_bytes=0, directory=tmp_path)
    with pytest.raises(UserError, match="No space left.*memory_gigabytes"):
        store.put(("image", 1), {"a": np.zeros(3)})
