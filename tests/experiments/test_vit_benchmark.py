"""The benchmark of vision transformers, with a small one."""

import json

import pytest

from apanet_jax.models import backbones, dino
from apanet_jax.models.vit import Variant, ViT
from apanet_jax.runtime.errors import UserError
from experiments.speed import vit_benchmark

NAME = "dinov2_vits14"
TINY = Variant("a tiny ViT", 16, 2, 2, 24, gated=True, registers=1, table_side=2)


@pytest.fixture
def tiny(monkeypatch):
    """A small vision transformer in the place of a large one."""
    row = backbones.spec(NAME)._replace(build=lambda dtype: ViT(TINY, (1, 1, 2), dtype=dtype))
    monkeypatch.setitem(backbones.BACKBONES, NAME, row)
    monkeypatch.setitem(dino.VARIANTS, NAME, TINY)


def test_ours_and_pytorch_s_are_the_same_network(tiny, tmp_path, capsys):
    path, page = tmp_path / "rows.json", tmp_path / "page.md"
    options = ["--sizes=42", "--batch=2", "--repetitions=1"]
    with pytest.raises(SystemExit, match="0"):
        vit_benchmark.main([*options, f"--json={path}", f"--markdown={page}"])
    assert "    python experiments/speed/vit_benchmark.py --sizes=42" in page.read_text()
    assert "| dinov2_vits14 | 42 | float32 | apanet_jax |" in page.read_text()
    result = json.loads(path.read_text())
    ours, theirs = result["rows"]
    assert (ours["implementation"], theirs["implementation"]) == ("apanet_jax", "PyTorch")
    assert ours["right"] and ours["largest_error"] < 1e-4
    assert set(theirs) < set(ours) and ours["size"] == 42 and "versions" in result
    assert "| dinov2_vits14 | 42 | float32 | PyTorch |" in capsys.readouterr().out


def test_operations_are_those_of_all_matrix_products():
    # 4 patches and 2 other tokens.
    tokens, width = 6, 16
    linear = 2 * tokens * (4 * width * width + 3 * width * 24)
    attention = 2 * 2 * tokens * tokens * width
    assert vit_benchmark.products(TINY, 28) == 2 * (linear + attention) + 2 * 4 * 588 * width


def test_sizes_that_the_patch_does_not_divide_are_refused(tiny):
    with pytest.raises(SystemExit, match="2"):
        vit_benchmark.main(["--sizes=40"])
    with pytest.raises(UserError, match="multiples of 14"):
        backbones.check_size(NAME, 40)
