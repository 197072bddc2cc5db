"""The figures' rules, checked by hand, and the script, run as a user would."""

import numpy as np
import pytest

from apanet_jax.reports import overlays
from apanet_jax.runtime.errors import UserError
from experiments.paper.figures import choose_episodes
from tests.scripts import assert_refused, run_script


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
    with pytest.raises(UserError, match="6 query images, expected at least 7"):
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
    ("arguments", "said"),
    [
        (["--figure=6", "--output=x.png", "--apanet=no"], "--figure=6 needs --baseline=DIR"),
        (["--figure=7", "--output=x.jpg", "--apanet=no"], "expected a name that ends in .png"),
        (["--figure=7", "--output=no/x.png", "--apanet=no"], "there is no folder no"),
        (["--figure=7", "--output=x.png", "--apanet=no"], "no holds no trained run"),
        (["--figure=7", "--output=x.png", "--columns=none"], "from 1 on, not 'none'"),
    ],
)
def test_bad_input_gets_one_line(arguments, said):
    assert_refused(run_script("figures", *arguments), said)
