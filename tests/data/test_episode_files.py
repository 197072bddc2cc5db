import json

import numpy as np
import pytest

from apanet_jax.data.episode_files import read_episodes, write_episodes
from apanet_jax.data.episodes import Episode
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.runtime.errors import UserError
from tests import trees


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    write_records(FolderSource(trees.folder_tree(root / "mine")), root / "records")
    return open_records(root / "records")


def with_class(mine, class_id):
    return np.flatnonzero(mine.split("val").areas[:, class_id] > 0)


def names_of(mine, class_id=1):
    split = mine.split("val")
    return [split.names[number] for number in with_class(mine, class_id)]


def test_what_was_written_is_read_back_and_says_what_was_counted(mine, tmp_path):
    first, second = with_class(mine, 1), with_class(mine, 2)
    episodes = (Episode(first[0], 1, tuple(first[1:3])), Episode(second[2], 2, tuple(second[:2])))
    counts = EpisodeCounts(np.array([[70, 3], [50, 0]]), np.array([[80, 13], [90, 40]]))
    path = tmp_path / "new" / "list.jsonl"
    write_episodes(path, mine, episodes, counts)
    assert read_episodes(path, mine, (1, 2)) == episodes
    line = json.loads(path.read_text().splitlines()[1])
    names = mine.split("val").names
    assert line == {
        "query": names[second[2]],
        "class": "class2",
        "supports": [names[second[0]], names[second[1]]],
        "intersection": [50, 0],
        "union": [90, 40],
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class": "class3"}, "line 2 .*'class3' is none of the fold's: class1, class2"),
        ({"class": ["class1"]}, "none of the fold's"),
        ({"query": "train_000"}, "none of the name 'train_000'"),
        ({"supports": []}, "expected a list of names"),
        ({"supports": "val_000"}, "expected a list of names"),
        ({"supports": [None]}, "none of the name None"),
        ({"supports": ["QUERY"]}, "not all different"),
        ({"supports": ["FIRST", "SECOND"]}, "2 supports, and 1 in line 1"),
        ({"supports": ["WITHOUT"]}, "no pixel of the class in the support"),
        ("query 1 support 2", "expected {"),
        ("[1, 2]", "expected {"),
        ('{"query": "val_000"}', "expected {"),
    ],
)
def test_a_line_that_cannot_be_an_episode_is_named(mine, tmp_path, change, says):
    query, first, second, *_ = names_of(mine)
    without = next(name for name in mine.split("val").names if name not in names_of(mine))
    stand_for = {"QUERY": query, "FIRST": first, "SECOND": second, "WITHOUT": without}
    good = {"query": query, "class": "class1", "supports": [first]}
    bad = change if isinstance(change, str) else json.dumps(good | change)
    for word, name in stand_for.items():
        bad = bad.replace(f'"{word}"', f'"{name}"')
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps(good) + "\n" + bad + "\n")
    with pytest.raises(UserError, match=says) as refused:
        read_episodes(path, mine, (1, 2))
    assert "\n" not in str(refused.value)


def test_a_file_without_episodes_is_refused(mine, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_episodes(tmp_path / "nothing.jsonl", mine, (1, 2))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no episode"):
        read_episodes(tmp_path / "empty.jsonl", mine, (1, 2))
