"""Heads as they are saved: their settings, sizes and decisions."""

import json

import pytest

from apanet_jax.inference.presence import Decision, nearest_decision
from apanet_jax.inference.saved_head import DECISION, GENERAL_HEAD, read_calibration
from apanet_jax.runtime.errors import UserError


def test_a_head_s_decisions_lie_beside_it(tmp_path):
    first = Decision(threshold=0.5, scale=2, bias=-1, peak_weight=3, likeness_weight=4)
    other = first._replace(bias=1)
    content = {"size": 97, "decisions": {"1": first._asdict(), "5": other._asdict()}}
    assert read_calibration(tmp_path) is None
    (tmp_path / DECISION).write_text(json.dumps(content))
    calibration = read_calibration(tmp_path)
    assert calibration.size == 97
    chosen = [nearest_decision(calibration.decisions, shots) for shots in (1, 2, 4, 9)]
    assert chosen == [first, first, other, other]
    for damaged in ("{", "[]", '{"size": 97}', '{"size": "x", "decisions": {}}'):
        (tmp_path / DECISION).write_text(damaged)
        with pytest.raises(UserError, match="decision.json holds no size"):
            read_calibration(tmp_path)


def test_the_bundled_head_is_small_and_names_no_folder():
    config = json.loads((GENERAL_HEAD / "config.json").read_text())
    assert not config["data"]["records"] and not config["features"]["directory"]
    size = sum(path.stat().st_size for path in GENERAL_HEAD.iterdir())
    assert size < 1 << 20
