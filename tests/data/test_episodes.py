"""Episodes against the protocol's rules, checked one by one on random tables of areas."""

import collections
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.data.episodes import (
    draw_evaluation,
    draw_training,
    episode_lists,
    left_out_line,
    with_hidden_share,
)
from apanet_jax.runtime.errors import UserError

MIN_AREA = 100
CLASSES = (2, 3, 5)


def split_of(seed=0, pictures=60, classes=6, names=None):
    rng = np.random.default_rng(seed)
    areas = rng.integers(1, 400, (pictures, classes + 1)) * (
        rng.random((pictures, classes + 1)) < 0.4
    )
    names = names or [f"{i:04d}" for i in range(pictures)]
    return types.SimpleNamespace(areas=areas, names=names)


def slow_lists(split, class_ids, shot):
    """The rules in the protocol's words, in plain loops."""
    supports = {
        c: [i for i, row in enumerate(split.areas) if row[c] >= MIN_AREA] for c in class_ids
    }
    queries = {}
    for i, row in enumerate(split.areas):
        if any(i in supports[c] for c in class_ids):
            present = [c for c in class_ids if row[c] > 0 and len(set(supports[c]) - {i}) >= shot]
            if present:
                queries[i] = present
    return supports, queries


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("seed", range(4))
def test_lists_follow_the_rules(seed, shot):
    split = split_of(seed)
    lists = episode_lists(split, CLASSES, shot=shot, min_area=MIN_AREA)
    supports, queries = slow_lists(split, CLASSES, shot)
    assert {c: s.tolist() for c, s in lists.supports.items()} == supports
    assert (
        dict(zip(lists.queries.tolist(), [c.tolist() for c in lists.classes], strict=True))
        == queries
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3), st.integers(0, 2**31 - 1), st.integers(0, 10**6), st.sampled_from([1, 2, 5])
)
def test_every_episode_is_allowed(table, seed, index, shot):
    split = split_of(table)
    lists = episode_lists(split, CLASSES, shot=shot, min_area=MIN_AREA)
    for draw in (draw_training, draw_evaluation):
        episode = draw(lists, seed=seed, index=index, shot=shot)
        assert episode == draw(lists, seed=seed, index=index, shot=shot)
        assert split.areas[episode.query, episode.class_id] > 0
        assert len(set(episode.supports)) == shot and episode.query not in episode.supports
        assert all(split.areas[s, episode.class_id] >= MIN_AREA for s in episode.supports)


def test_an_epoch_asks_every_query_once_in_an_order_of_its_own():
    lists = episode_lists(split_of(), CLASSES, shot=1, min_area=MIN_AREA)
    count = len(lists.queries)
    orders = [
        [draw_training(lists, seed=4, index=e * count + i, shot=1).query for i in range(count)]
        for e in range(3)
    ]
    assert all(sorted(order) == lists.queries.tolist() for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != lists.queries.tolist()


def test_testing_follows_the_list_round_after_round():
    lists = episode_lists(split_of(), CLASSES, shot=1, min_area=MIN_AREA)
    count = len(lists.queries)
    drawn = [draw_evaluation(lists, seed=321, index=i, shot=1).query for i in range(2 * count)]
    assert drawn == lists.queries.tolist() * 2


def test_classes_and_supports_are_drawn_evenly():
    split = types.SimpleNamespace(areas=np.full((4, 4), 500), names=list("abcd"))
    lists = episode_lists(split, (1, 2, 3), shot=1, min_area=MIN_AREA)
    episodes = [draw_evaluation(lists, seed=0, index=i, shot=1) for i in range(3600)]
    for counts in (
        collections.Counter(e.class_id for e in episodes),
        collections.Counter(e.supports for e in episodes if e.query == 0),
    ):
        expected = sum(counts.values()) / 3
        assert len(counts) == 3
        assert all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


def test_frames_of_a_video_stay_apart():
    names = [f"A_{i:05d}" for i in range(40)] + [f"B_{i:05d}" for i in range(20)]
    rng = np.random.default_rng(0)
    order = rng.permutation(60)
    names = [names[i] for i in order]
    split = types.SimpleNamespace(areas=np.full((60, 2), 500), names=names)
    lists = episode_lists(split, (1,), shot=5, support_gap=15, min_area=MIN_AREA)
    others = set()
    for index in range(300):
        episode = draw_training(lists, seed=1, index=index, shot=5)
        for support in episode.supports:
            a, b = names[episode.query], names[support]
            others.add(a[0] == b[0])
            if a[0] == b[0]:
                assert abs(int(a[2:]) - int(b[2:])) >= 15
    assert others == {True, False}


def test_classes_without_enough_images_are_left_out_and_named():
    areas = np.array([[0, 500, 0, 9]] * 4 + [[0, 0, 500, 0]] + [[0, 0, 0, 500]] * 2)
    split = types.SimpleNamespace(areas=areas, names=list("abcdefg"))
    names = ("cat", "dog", "cow")
    lists = episode_lists(split, (1, 2, 3), shot=1, min_area=MIN_AREA)
    assert lists.left_out == (2,) and 4 not in lists.queries
    line = left_out_line(lists, "training", names, shot=1, min_area=MIN_AREA)
    assert "left out of training, 1 of 3 classes: dog (" in line and "100 pixels" in line
    lists = episode_lists(split, (1, 2, 3), shot=2, min_area=MIN_AREA)
    # Of cow there are two supports, and a query beside them that holds few pixels of it.
    assert lists.left_out == (2,) and lists.queries.tolist() == [0, 1, 2, 3]
    assert {tuple(c) for c in lists.classes} == {(1, 3)}
    lists = episode_lists(split, (1, 2, 3), shot=3, min_area=MIN_AREA)
    assert lists.left_out == (2, 3)
    assert left_out_line(lists, "training", names, shot=3, min_area=MIN_AREA).count("dog, cow") == 1
    lists = episode_lists(split, (1,), shot=3, min_area=MIN_AREA)
    assert left_out_line(lists, "training", names, shot=3, min_area=MIN_AREA) == ""


def test_where_every_class_has_too_few_images_the_error_names_them():
    split = types.SimpleNamespace(areas=np.array([[0, 500], [0, 500], [0, 5]]), names=list("abc"))
    assert len(episode_lists(split, (1,), shot=1, min_area=MIN_AREA).queries) == 2
    with pytest.raises(UserError, match="1 of 1 classes: bee .*2 supports .*fewer shots"):
        episode_lists(split, (1,), shot=2, min_area=MIN_AREA, class_names=["bee"])
    with pytest.raises(UserError, match="class 1"):
        episode_lists(split, (1,), shot=1, min_area=1000)


@pytest.mark.parametrize("seed", range(3))
def test_images_with_a_novel_class_can_be_left_out_of_queries_and_supports(seed):
    split = split_of(seed)
    lists = episode_lists(split, CLASSES, shot=1, min_area=MIN_AREA, without=(1, 4))
    admitted = [i for i, row in enumerate(split.areas) if row[1] == 0 and row[4] == 0]
    alone = types.SimpleNamespace(areas=split.areas[admitted], names=split.names)
    expected = episode_lists(alone, CLASSES, shot=1, min_area=MIN_AREA)
    assert lists.queries.tolist() == [admitted[i] for i in expected.queries]
    for c in CLASSES:
        assert lists.supports[c].tolist() == [admitted[i] for i in expected.supports[c]]
    everything = episode_lists(split, CLASSES, shot=1, min_area=MIN_AREA)
    assert 0 < len(lists.queries) < len(everything.queries)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 100), st.floats(0, 1))
def test_a_share_of_hidden_classes_is_kept_among_as_many_queries(table, seed, share):
    split, hidden = split_of(table), (1, 4)
    lists = episode_lists(split, CLASSES, shot=1, min_area=MIN_AREA)
    kept = with_hidden_share(lists, split, hidden, share, seed=seed)
    holds = {i for i, row in enumerate(split.areas) if row[1] > 0 or row[4] > 0}
    with_some = len(holds & set(lists.queries.tolist()))
    count = min(with_some, len(lists.queries) - with_some)
    assert len(kept.queries) == len(kept.classes) == count
    assert len(holds & set(kept.queries.tolist())) == round(share * count)
    asked = dict(zip(lists.queries.tolist(), lists.classes, strict=True))
    for query, classes in zip(kept.queries.tolist(), kept.classes, strict=True):
        np.testing.assert_array_equal(classes, asked[query])
    assert kept.supports is lists.supports


def test_a_share_of_hidden_classes_that_none_has_is_refused():
    split = split_of()
    split.areas[:, 1] = 0
    lists = episode_lists(split, CLASSES, shot=1, min_area=MIN_AREA)
    with pytest.raises(UserError, match="0 have some"):
        with_hidden_share(lists, split, (1,), 0.5, seed=0)
