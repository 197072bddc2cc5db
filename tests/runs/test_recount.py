"""Results say how they came about, and can be counted again."""

import json

import flax
import jax
import pytest

from apanet_jax import __version__, main
from apanet_jax.config import saved
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.runs import sweep
from apanet_jax.runs.recount import verify
from apanet_jax.runtime.errors import UserError
from configs import folder
from tests import trees
from tests.small_backbone import OPTIONS

pytestmark = pytest.mark.usefixtures("small_backbone")

TINY = f"{OPTIONS},log_every=2,episodes=4,shots=1,devices=1,write_episodes=True"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, small_backbone):
    root = tmp_path_factory.mktemp("verify")
    write_records(FolderSource(trees.folder_tree(root / "mine")), root / "records")
    config = folder.get_config(f"{TINY},records={root / 'records'}")
    sweep.run_all(config, root / "run", "train_and_evaluate")
    return root / "run"


@pytest.fixture
def stored(evaluated):
    """The rows of results.json, which are put back afterwards."""
    path = evaluated / "results.json"
    before = path.read_text()
    yield json.loads(before)
    path.write_text(before)


def test_rows_say_how_they_came_about(evaluated, stored):
    (row,) = stored
    assert row["versions"] == {
        "apanet_jax": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    assert row["device"] == f"1 x {jax.devices()[0].device_kind}"
    for name in ("data", "weights", "config"):
        assert len(row[f"{name}_fingerprint"]) == 64
    index = json.loads((evaluated.parent / "records" / "index.json").read_text())
    assert row["data_fingerprint"] == index["fingerprint"]
    text = (evaluated / "episodes" / "last_1shot.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for kind, column in (("intersection", 0), ("union", 1)):
        background = sum(line[kind][0] for line in lines)
        assert row["counts"]["background"][column] == background
        for name, pair in row["counts"]["per_class"].items():
            found = sum(line[kind][1] for line in lines if line["class"] == name)
            assert pair[column] == found


def test_the_same_again_is_told_in_a_line_a_row(evaluated, capsys):
    assert verify(evaluated) == 0
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{evaluated} last 1-shot: the same again, mIoU ")
    config = saved.of_run(evaluated)
    assert verify(evaluated, config) == 0


def test_a_count_that_differs_is_told_with_both_values(evaluated, stored, capsys):
    name, pair = next(iter(stored[0]["counts"]["per_class"].items()))
    pair[0] += 1
    (evaluated / "results.json").write_text(json.dumps(stored))
    assert verify(evaluated) == 1
    told = capsys.readouterr().out
    assert f"DIFFERS: counts of per_class of {name} is {pair} there" in told


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data_fingerprint", "0", "data_fingerprint is '0' there"),
        ("checkpoint", "best", "no such row"),
        ("miou", -1.0, "miou is -1.0 there"),
    ],
)
def test_other_rows_differ_too(evaluated, stored, capsys, key, value, says):
    stored[0][key] = value
    (evaluated / "results.json").write_text(json.dumps(stored))
    assert verify(evaluated) == 1
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "[1]"])
def test_results_that_are_none_are_refused_in_one_line(evaluated, stored, content):
    (evaluated / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json") as refused:
        verify(evaluated)
    assert "\n" not in str(refused.value)


def test_the_command_needs_no_config_but_a_workdir(evaluated, tmp_path):
    with pytest.raises(UserError, match="no --workdir"):
        main._verify(None, None)
    with pytest.raises(UserError, match="evaluate there first"):
        main._verify(None, tmp_path / "nowhere")
    assert main._verify(None, evaluated) == 0
