"""Evaluation that embeds once against the path that embeds every episode anew."""

import dataclasses

import jax
import numpy as np
import pytest

from apanet_jax.evaluation import comparing, embed_once, embedding
from apanet_jax.evaluation.feature_store import DISK, MEMORY
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
    original = embedding.load_test_view

    def noted(split, size, pictures, index, **options):
        embedded.append(pictures[index])
        return original(split, size, pictures, index, **options)

    monkeypatch.setattr(embedding, "load_test_view", noted)
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
    monkeypatch.setattr(embedding, "load_test_view", None)
    counts, _ = run.evaluator.count(head_of(run), 1, EPISODES)
    assert counts.union[:, 1].all()


@pytest.mark.parametrize(
    ("options", "query", "support"),
    [
        ("priors=", {"middle"}, {"middle", "parts"}),
        ("priors=middle", {"middle"}, {"middle", "parts"}),
        (MASKED, {"middle", "high"}, {"middle", "parts", "high"}),
    ],
)
def test_only_what_the_head_reads_is_kept(prepared, options, query, support):
    embedder = run_of(prepared, options).evaluator._not_embedded().embedder
    of_query, of_support, _ = embedder.shapes()
    assert (set(of_query), set(of_support)) == (query, support)
    # An image that only supports has its last block masked, and no other.
    batch = {"image": np.zeros((8, 65, 65, 3), np.uint8)}
    rows, _ = jax.eval_shape(embedder._embed[False], embedder._parameters, batch)
    assert "high" not in rows[0]


@pytest.mark.slow
def test_validation_embeds_what_it_scores_and_no_other_shots(prepared):
    run = run_of(prepared, f"{MASKED},validation_episodes=5,every=1")
    episodes = list(run.data.test_episodes(1, range(5)))
    run.task().validate(head_of(run))
    held = run.evaluator.embedded.of(run.evaluator._identity, None).store._held
    supports = {(image, e.class_id) for e in episodes for image in e.supports}
    assert {key[1:] for key in held if key[0] == "support"} == supports
    assert {key[1] for key in held if key[0] == "query"} >= {e.query for e in episodes}


BUDGETS = {
    "ample": "",
    "disk": "memory_gigabytes=0.0",
    "a little": "memory_gigabytes=4e-4,disk_gigabytes=1e-5",
    "none": "memory_gigabytes=0.0,disk_gigabytes=0.0",
}


@pytest.fixture(scope="module")
def whole(prepared):
    """Counts of two heads with 1 and 3 supports where everything is held; and the heads."""
    run = run_of(prepared, MASKED)
    heads = [head_of(run, seed) for seed in (0, 1)]
    return heads, run.evaluator.count_all(heads, (1, 3), EPISODES)


def assert_same(found, expected):
    for shot, of_heads in expected.items():
        for ours, theirs in zip(found[shot], of_heads, strict=True):
            for first, second in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_counts_do_not_depend_on_the_budgets(prepared, tmp_path, whole, budget, capsys):
    heads, expected = whole
    run = run_of(prepared, f"{MASKED},directory={tmp_path},{BUDGETS[budget]}")
    needs = run.evaluator.needs((1, 3), EPISODES)
    assert_same(run.evaluator.count_all(heads, (1, 3), EPISODES), expected)
    # It was said before anything was embedded, and is what happened.
    said = capsys.readouterr().out
    assert f"{needs.passes} images pass the backbone" in said
    features = run.evaluator.embedded.of(run.evaluator._identity, None)
    assert features.store.peak[DISK] <= features.store.budgets[DISK]
    assert features.store.peak[MEMORY] <= features.store.budgets[MEMORY]
    if budget != "a little":
        assert bool(list(tmp_path.glob("features-*/*.npy"))) == (budget == "disk")
    assert (needs.windows == 1) == (budget in ("ample", "disk"))


@pytest.mark.slow
def test_counts_are_the_same_after_a_kill_in_the_middle(prepared, tmp_path, whole, monkeypatch):
    heads, expected = whole
    run = run_of(prepared, f"{MASKED},directory={tmp_path},{BUDGETS['a little']}")
    fetch, fetched = embed_once.Scoring._fetch, []

    def stopping(self, left):
        fetched.append(left)
        if len(fetched) == 3:
            raise KeyboardInterrupt
        return fetch(self, left)

    with monkeypatch.context() as patch:
        patch.setattr(embed_once.Scoring, "_fetch", stopping)
        with pytest.raises(KeyboardInterrupt):
            run.evaluator.count_all(heads, (1, 3), EPISODES)
    # In the same process, where some features are held, and in one that finds none.
    assert_same(run.evaluator.count_all(heads, (1, 3), EPISODES), expected)
    run.evaluator.embedded.clear()
    assert_same(run.evaluator.count_all(heads, (1, 3), EPISODES), expected)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_every_device_does_its_share(prepared, tmp_path, whole, devices, monkeypatch):
    heads, expected = whole
    run = run_of(prepared, f"{MASKED},devices={devices}")
    features = run.evaluator._not_embedded()
    # A simulated device's memory is the computer's, so nothing would be held on it.
    features.store._budgets = (1e9, 0.0, 0.0, float("inf"))
    monkeypatch.setattr(run.evaluator, "_not_embedded", lambda: features)
    assert_same(run.evaluator.count_all(heads, (1, 3), EPISODES), expected)
    # Each device keeps the rows of a batch that it embedded: half of them, of two.
    queries = [key for key in features.store._held if key[0] == "query"]
    homes = [features.embedder.rows.home(features.store.get(key)) for key in queries]
    assert set(homes) == set(range(devices))
    assert features.embedder.rows.each == 8 // devices


@pytest.mark.slow
def test_embedding_and_encoding_are_split_among_the_devices(prepared):
    def work(devices):
        """Returns the operations of one device to embed a batch, and to encode it."""
        run = run_of(prepared, f"{MASKED},devices={devices}")
        features = run.evaluator._not_embedded()
        embed, backbone = features.embedder._embed[True], features.embedder._parameters
        batch = {"image": jax.ShapeDtypeStruct((8, 65, 65, 3), np.uint8)}
        rows, _ = jax.eval_shape(embed, backbone, batch)
        encode = comparing.compiled_head(run.network.head, features.mesh, run.evaluator.resizing)[1]
        rows = [{"middle": row["middle"]} for row in rows]
        lowered = embed.lower(backbone, batch), encode.lower(head, rows)
        return np.array([x.compile().cost_analysis()["flops"] for x in lowered])

    head = jax.device_get(head_of(run_of(prepared, MASKED)))
    # An eighth, up to what the compiler makes of other shapes.
    np.testing.assert_allclose(work(8), work(1) / 8, rtol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_stored_types_change_all_paths_alike(prepared, whole, stored):
    heads, expected = whole
    run = run_of(prepared, f"{MASKED},stored={stored}")
    for shot in (1, 3):
        (once, _), (each, _) = both(run, heads[0], shot)
        for ours, theirs in zip(once, each, strict=True):
            # Pixels whose two logits are equal up to the rounding of sums.
            assert np.abs(ours - theirs).sum(1).max() <= 4
        differing = np.abs(once.intersection - expected[shot][0][0].intersection).sum()
        assert differing <= 0.02 * once.union.sum()


def test_a_feature_that_float16_cannot_hold_is_refused(prepared, monkeypatch):
    run = run_of(prepared, f"{MASKED},stored=float16")
    features = run.evaluator._not_embedded()
    features.embedder._parameters = jax.tree.map(
        lambda x: 1e4 * x, run.loaded.local_backbone_parameters
    )
    with pytest.raises(UserError, match="larger than float16 can hold.*stored=bfloat16"):
        list(features.embedder.queries(range(8)))
