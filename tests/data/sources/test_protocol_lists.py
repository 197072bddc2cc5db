"""PASCAL-5i's lists and Fig. 3, derived from the pixels of each class in each of its label maps.

`../shared/data/voc_lists` holds the names and a table of pixels; the expected counts are those of
its README, which were checked against the lists that published code ships.
"""

import csv
import types
from pathlib import Path

import numpy as np
import pytest

from apanet_jax.data.episodes import episode_lists
from apanet_jax.data.sources.pascal import CLASS_NAMES, EXPECTED, FOLDS, united

LISTS = Path(__file__).resolve().parents[3] / "../shared/data/voc_lists"
pytestmark = pytest.mark.skipif(not LISTS.exists(), reason="the lists are not beside the project")

TRAINING = (4760, 4588, 4097, 5108)
WITHOUT_NOVEL = (4208, 3726, 2752, 4510)
TEST = (364, 445, 592, 336)
HIDDEN_PAIRS = (7.5, 12.5, 23.5, 8.7)
HIDDEN_IMAGES = (11.6, 18.8, 32.8, 11.7)


def names_of(name):
    return (LISTS / f"{name}.txt").read_text().split()


@pytest.fixture(scope="module")
def table():
    """By name, the pixels of background (not in the table: 0) and of each class."""
    with (LISTS / "class_pixels.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row["id"]: [0] + [int(row[str(c)]) for c in range(1, 21)] for row in rows}


def split_of(table, names):
    return types.SimpleNamespace(names=names, areas=np.array([table[name] for name in names]))


def classes_of(fold):
    novel = tuple(range(5 * fold + 1, 5 * fold + 6))
    return novel, tuple(c for c in range(1, 21) if c not in novel)


def test_the_lists_are_united_as_published():
    own, sbd = names_of("voc_train"), names_of("sbd_train_noval")
    assert (len(own), len(sbd), len(set(own) & set(sbd))) == (1464, 5623, 1134)
    train = united(own, sbd)
    assert len(train) == len(set(train)) == EXPECTED["train"] == 5953
    assert set(train) == set(names_of("train"))
    assert len(names_of("val")) == EXPECTED["val"] == 1449
    assert not set(train) & set(names_of("val"))


@pytest.mark.parametrize("fold", range(4))
def test_lists_of_a_fold(table, fold):
    train, val = (split_of(table, names_of(name)) for name in ("train", "val"))
    novel, base = classes_of(fold)
    assert FOLDS[fold] == tuple(CLASS_NAMES[c - 1] for c in novel)
    listed = episode_lists(train, base, shot=1)
    assert len(listed.queries) == TRAINING[fold] and not listed.left_out
    clean = episode_lists(train, base, shot=1, without=novel)
    assert len(clean.queries) == WITHOUT_NOVEL[fold] and not clean.left_out
    assert not train.areas[np.ix_(clean.queries, novel)].any()
    tested = episode_lists(val, novel, shot=5)
    assert len(tested.queries) == TEST[fold] and not tested.left_out


@pytest.mark.parametrize("fold", range(4))
def test_figure_3_counts_pairs_of_image_and_class(table, fold):
    train = split_of(table, names_of("train"))
    novel, base = classes_of(fold)
    rows = train.areas[episode_lists(train, base, shot=1).queries]
    pairs = hidden = images = 0
    for row in rows.tolist():
        present = {c for c, pixels in enumerate(row) if c and pixels}
        pairs += len(present)
        hidden += len(present & set(novel))
        images += bool(present & set(novel))
    assert round(100 * hidden / pairs, 1) == HIDDEN_PAIRS[fold]
    assert round(100 * images / len(rows), 1) == HIDDEN_IMAGES[fold]
