"""The estimator against scikit-learn's, and what it refuses."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from apanet_jax.kernels import KMeans


def blobs(seed, rows=60, features=4, clusters=3, spread=1.0):
    rng = np.random.default_rng(seed)
    middle = 3 * rng.standard_normal((clusters, features))
    X = middle[rng.integers(0, clusters, rows)] + spread * rng.standard_normal((rows, features))
    return X.astype(np.float32)


@settings(max_examples=15, deadline=None)
@example(232, True, 1e-2)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 1e-2]))
def test_agrees_with_scikit_learn(seed, weighted, tol):
    X = blobs(seed, spread=2.0)
    rng = np.random.default_rng(seed)
    weights = rng.random(len(X)).astype(np.float32) if weighted else None
    init = X[rng.choice(len(X), 3, replace=False)]
    ours = KMeans(3, metric="euclidean", init=init, tol=tol).fit(X, sample_weight=weights)
    theirs = Reference(3, init=init, n_init=1, tol=tol).fit(X, sample_weight=weights)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-4)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-4)
    assert ours.n_iter_ == theirs.n_iter_
    new = blobs(seed + 1, rows=60)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def test_far_from_the_origin_it_is_as_exact():
    X = blobs(0)
    near = KMeans(3, metric="euclidean", init=X[:3]).fit(X)
    far = KMeans(3, metric="euclidean", init=X[:3] + 1000).fit(X + 1000)
    np.testing.assert_array_equal(far.labels_, near.labels_)
    np.testing.assert_array_equal(far.predict(X + 1000), near.labels_)
    np.testing.assert_allclose(far.cluster_centers_, near.cluster_centers_ + 1000, rtol=1e-6)
    np.testing.assert_allclose(far.inertia_, near.inertia_, rtol=1e-3)


def test_cosine_ignores_lengths_and_ends_at_unit_centres():
    X = blobs(0)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (len(X), 1)).astype(np.float32)
    model, other = (KMeans(3, random_state=0).fit(x) for x in (X, X * lengths))
    np.testing.assert_array_equal(model.labels_, other.labels_)
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    expected = (1 - (normalize(X) @ model.cluster_centers_.T).max(1)).sum()
    np.testing.assert_allclose(model.inertia_, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("metric", "init"),
    [("cosine", "k-means++"), ("euclidean", "farthest"), ("euclidean", "random")],
)
def test_finds_blobs_and_the_same_seed_the_same_ones(metric, init):
    X = blobs(3, rows=90, clusters=3, spread=0.1)
    model = KMeans(3, metric=metric, init=init, n_init=5, random_state=1)
    first = model.fit_predict(X)
    assert len(set(first)) == 3
    reference = Reference(3, n_init=10, random_state=0).fit_predict(X)
    assert len({*zip(first, reference, strict=True)}) == 3
    np.testing.assert_array_equal(first, model.fit_predict(X))


def test_more_starts_are_never_worse():
    X = blobs(4, rows=40, clusters=8, spread=2.0)
    inertia = [
        KMeans(6, init="random", n_init=n, random_state=0, metric="euclidean").fit(X).inertia_
        for n in (1, 8)
    ]
    assert inertia[1] <= inertia[0]


def test_rows_that_are_all_alike():
    model = KMeans(2, metric="euclidean", random_state=0).fit(np.ones((5, 3)))
    assert model.inertia_ == 0 and np.isfinite(model.cluster_centers_).all()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"n_clusters": 0}, "n_clusters"),
        ({"n_clusters": 6}, "number of rows, 5"),
        ({"n_clusters": 2.5}, "integer"),
        ({"n_init": 0}, "n_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"metric": "manhattan"}, "metric"),
        ({"init": "best"}, "init"),
        ({"init": np.ones((2, 2))}, "init has shape"),
        ({"init": np.full((2, 3), np.nan)}, "init holds"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**{"n_clusters": 2} | settings_).fit(np.ones((5, 3)))


@pytest.mark.parametrize(
    ("X", "weights", "message"),
    [
        (np.ones(5), None, "rows x features"),
        (np.ones((0, 3)), None, "rows x features"),
        (np.full((5, 3), np.nan), None, "NaN or infinity"),
        (np.full((5, 3), np.inf), None, "NaN or infinity"),
        (np.full((5, 3), "a"), None, "expected numbers"),
        (np.ones((5, 3)), np.ones(4), "one a row"),
        (np.ones((5, 3)), -np.ones(5), "at least 0"),
    ],
)
def test_input_that_cannot_be_is_refused(X, weights, message):
    with pytest.raises(ValueError, match=message):
        KMeans(2).fit(X, sample_weight=weights)


def test_predicting_needs_centres_and_as_many_features():
    with pytest.raises(ValueError, match="call fit first"):
        KMeans(2).predict(np.ones((5, 3)))
    with pytest.raises(ValueError, match="expected the 3"):
        KMeans(2, random_state=0).fit(blobs(0, features=3)).predict(np.ones((5, 2)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.7e9, -4e12, 6.4e6]))
def test_what_float64_tells_apart_is_told_apart(seed, origin):
    """As time stamps and coordinates of maps, which float32 makes one number."""
    X = blobs(seed, rows=40, features=3) + np.float64(origin)
    init = X[:3]
    ours = KMeans(3, metric="euclidean", init=init, tol=0).fit(X)
    theirs = Reference(3, init=init, n_init=1, tol=0).fit(X)
    # Where a start leaves a cluster empty, the two may number the clusters differently.
    assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1
    np.testing.assert_array_equal(ours.predict(X), ours.labels_)
    assert ours.cluster_centers_.dtype == np.float64
    centers, expected = (np.array(sorted(x.cluster_centers_.tolist())) for x in (ours, theirs))
    np.testing.assert_allclose(centers - origin, expected - origin, atol=1e-3)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_two_bursts_of_time_stamps_are_two_clusters(dtype):
    rng = np.random.default_rng(0)
    X = 1.7e9 + np.concatenate([rng.normal(0, 1, (50, 1)), rng.normal(30, 1, (50, 1))])
    labels = KMeans(2, metric="euclidean", random_state=0).fit_predict(X.astype(dtype))
    assert len(set(labels[:50])) == len(set(labels[50:])) == 1 and labels[0] != labels[50]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_that_overflow_are_refused(metric, dtype):
    X = blobs(0).astype(dtype)
    with pytest.raises(ValueError, match="squares"):
        KMeans(2, metric=metric, random_state=0).fit(X * dtype(1e25))
    model = KMeans(2, metric=metric, random_state=0).fit(X)
    with pytest.raises(ValueError, match="squares"):
        model.predict(X * dtype(1e25))


def test_values_beyond_float32_are_refused_without_a_warning(recwarn):
    with pytest.raises(ValueError, match="squares"):
        KMeans(2, random_state=0).fit(blobs(0) * np.float64(1e60))
    assert not recwarn.list


def test_is_an_estimator_to_scikit_learn():
    X = blobs(5, rows=40)
    model = clone(KMeans(3, metric="euclidean", random_state=0))
    assert model.get_params()["n_clusters"] == 3
    with pytest.raises(ValueError, match="clusters"):
        model.set_params(clusters=2)
    found = make_pipeline(StandardScaler(), model).fit(X)
    np.testing.assert_array_equal(found.predict(X), found[-1].labels_)
    search = GridSearchCV(model, {"n_clusters": [1, 3]}, cv=2).fit(X)
    assert search.best_params_ == {"n_clusters": 3}
    assert model.fit(X).n_features_in_ == 4
    np.testing.assert_allclose(model.score(X), -model.inertia_, rtol=1e-5)


def test_transform_gives_the_distances_to_the_centres():
    X = blobs(6, rows=40) + 100
    model = KMeans(3, metric="euclidean", random_state=0)
    expected = euclidean_distances(X, model.fit(X).cluster_centers_)
    np.testing.assert_allclose(model.transform(X), expected, atol=1e-3)
    np.testing.assert_array_equal(model.fit_transform(X).argmin(1), model.labels_)
    cosine = KMeans(3, random_state=0).fit(X)
    expected = cosine_distances(X, cosine.cluster_centers_)
    np.testing.assert_allclose(cosine.transform(X), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng, np.int64])
def test_random_states_of_every_kind(kind):
    first, again = (KMeans(3, random_state=kind(5)).fit(blobs(0)).inertia_ for _ in range(2))
    assert first == again
