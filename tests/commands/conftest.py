"""A folder of two-coloured scenes, and a matcher in NumPy in the network's place."""

import pytest

from apanet_jax.inference import segmenter
from apanet_jax.inference.segmenter import Segmenter
from tests.commands.predicting import write_scenes
from tests.inference.test_segmenter import GREEN, RED, ColourMatcher


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher(), head="colours")
    )
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    write_scenes(tmp_path, {"with": RED, "without": GREEN})
    return tmp_path
