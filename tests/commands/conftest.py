"""A folder of two-coloured scenes, and a matcher in NumPy in the network's place."""

import pytest
from PIL import Image

from apanet_jax.inference import segmenter
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher(), head="colours")
    )
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    for name, colour, where in (("red", RED, LEFT), ("green", GREEN, LEFT)):
        image, mask = scene(colour, where)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_truth.png")
    (tmp_path / "new").mkdir()
    Image.fromarray(scene(RED, RIGHT)[0]).save(tmp_path / "new" / "with.png")
    Image.fromarray(scene(GREEN, RIGHT)[0]).save(tmp_path / "new" / "without.png")
    return tmp_path
