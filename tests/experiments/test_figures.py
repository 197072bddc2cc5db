"""The figures' rules, checked by hand, and the script, run as a user would."""

import json

import numpy as np
import pytest
from PIL import Image

from apanet_jax.data import records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.reports import overlays
from apanet_jax.runs import sweep
from apanet_jax.runtime.errors import UserError
from configs import folder
from experiments.paper.figures import choose_episodes
from tests import trees
from tests.scripts import run_script

TINY = (
    "min_area=50,image_size=65,longer_side=65,channels=8,steps=2,training.batch_size=2,"
    "checkpoint_every=2,log_every=2,episodes=30,evaluation.batch_size=2,shots=1,devices=1,"
    "pictures=0,dataset=mine,workers=0"
)


def chosen(queries, baseline, apanet, wrong=None):
    wrong = np.zeros(len(queries), int) if wrong is None else np.array(wrong)
    choices = choose_episodes(*map(np.array, (queries, baseline, apanet)), wrong)
    return [choice.episode for choice in choices]


def test_quantiles_then_the_worst_then_the_largest_loss():
    """Eleven episodes whose differences are -5 to 5, so that 10 % of the way is the second."""
    apanet = np.array([45, 46, 47, 48, 49, 50, 51, 52, 53, 10, 55])
    baseline = apanet - np.arange(-5, 6)
    assert chosen(np.arange(11), baseline, apanet) == [1, 3, 5, 7, 9, 0, 2]
    apanet[[4, 8]], baseline[[4, 8]] = 10, (11, 7)
    wrong = np.zeros(11, int)
    wrong[[4, 8, 9]] = 5, 9, 100
    # Episode 9 is at 90 % already, so the next worst is the one of more wrong pixels, 8.
    assert chosen(np.arange(11), baseline, apanet, wrong) == [1, 3, 5, 7, 9, 8, 0]


def test_a_query_is_shown_once():
    apanet = np.full(11, 50)
    baseline = apanet - np.arange(-5, 6)
    queries = np.arange(11)
    queries[[2, 3, 4]] = 1
    # At 30 % stands 3, of the query that 10 % shows; 2 and 4 are too, and 1 is nearer than 5.
    # All 50s: the worst is the first episode, the largest loss the next of the order, 6's turn.
    assert chosen(queries, baseline, apanet) == [1, 5, 6, 7, 9, 0, 8]


def test_too_few_queries_are_refused():
    with pytest.raises(UserError, match="6 query pictures, expected at least 7"):
        chosen(np.arange(20) % 6, np.zeros(20), np.ones(20))


def test_a_sheet_has_a_line_for_captions_only_where_there_are_any():
    white = np.full((20, 20, 3), 255, np.uint8)
    bare = overlays.sheet([[("", white)], [("", white)]], 20)
    assert bare.shape == (8 + 2 * 28, 20 + 16, 3)
    assert overlays.sheet([[("a", white)], [("", white)]], 20).shape == (8 + 18 + 2 * 28, 36, 3)
    labelled = overlays.sheet([[("", white)]], 20, labels=["up"])
    assert labelled.shape == (36, 36 + 18, 3)
    assert labelled[:, :26].min() < 128 and labelled[:, 26:].min() == 255


def test_what_is_covered_is_nearly_the_colour_alone():
    image, mask = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    shown = overlays.covered(image, mask)
    np.testing.assert_array_equal(shown[4, 4], [0.8 * c // 1 for c in overlays.GIVEN])
    assert not shown[0].any()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--figure=6", "--output=x.png"], "error: --figure=6 needs --baseline=DIR"),
        (["--figure=7", "--output=x.jpg"], "error: --output=x.jpg: expected a name that ends"),
        (["--figure=7", "--output=no/x.png"], "error: --output=no/x.png: there is no folder no"),
        (["--figure=7", "--output=x.png", "--apanet=no"], "error: no holds no trained run"),
        (
            ["--figure=7", "--output=x.png", "--columns=none"],
            "error: expected a whole number from 1 on, not 'none'",
        ),
    ],
)
def test_bad_input_gets_one_line(arguments, line):
    done = run_script("figures.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_figures_of_a_trained_pair(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine")
    records.write(FolderSource(tree), tmp_path / "records", min_area=50)
    config = folder.get_config(f"{TINY},records={tmp_path / 'records'}")
    config.variants.baseline, config.variants.apanet = "num_clusters=0", "num_clusters=2"
    sweep.run_all(config, tmp_path / "pair", "train")
    pair = [f"--{name}={tmp_path / 'pair' / name}" for name in ("baseline", "apanet")]
    outputs = {figure: tmp_path / f"figure{figure}.png" for figure in (6, 7)}

    done = run_script("figures.py", "--figure=6", *pair, f"--output={outputs[6]}")
    assert done.returncode == 0, done.stderr
    told = json.loads(outputs[6].with_suffix(".json").read_text())
    assert told["rule"] in done.stdout
    assert len({row["query"] for row in told["episodes"]}) == len(told["episodes"]) == 7
    assert all(0 <= row[who] <= 100 for row in told["episodes"] for who in ("baseline", "apanet"))
    first = outputs[6].read_bytes()
    assert run_script("figures.py", "--figure=6", *pair, f"--output={outputs[6]}").returncode == 0
    assert outputs[6].read_bytes() == first

    columns, side = 2, 64
    done = run_script(
        "figures.py",
        "--figure=7",
        pair[1],
        f"--output={outputs[7]}",
        f"--columns={columns}",
        f"--side={side}",
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(outputs[7].with_suffix(".json").read_text())["pictures"]) == columns
    assert Image.open(outputs[7]).width == columns * (side + 8) + 8 + 21
