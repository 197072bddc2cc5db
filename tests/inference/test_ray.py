"""The example with Ray Data, on two workers: tests/tools.sh installs Ray."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import apanet_jax
from apanet_jax.inference.heads.head_choice import HeadSource
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene
from tests.installed_tools import library
from tests.scripts import assert_refused, run_script

SCRIPT = Path(__file__).parents[2] / "experiments" / "own_pictures" / "segment_shards.py"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers=0"], "--workers=0: expected 1 or more"),
        (["--shard=0"], "--shard=0: expected 1 or more"),
        (["--images=nothere"], "--images=nothere is no folder with files in it"),
        (["--output=photos"], "--output=photos is there already: give a new folder"),
        (["nothere.apanet"], "there is no nothere.apanet: expected a saved segmenter"),
        (["photos/a.png"], "photos/a.png is no saved segmenter"),
        (["red.apanet"], "this example needs ray[data], which is not installed"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_ray_starts(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    supports = [scene(RED, LEFT), scene(RED, RIGHT)]
    made = Segmenter(ColourMatcher(), source=HeadSource(None, "small", True))
    made.fit(*zip(*supports, strict=True)).save("red.apanet")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    given = ["--images=photos", "--output=found", *options]
    given = given if options[0].endswith((".apanet", ".png")) else ["red.apanet", *given]
    assert_refused(run_script("segment_shards", *given), says)
    assert not (tmp_path / "found").exists()


@pytest.mark.slow
def test_two_workers_find_what_one_process_finds(tmp_path):
    library("ray.data", "ray")
    supports = [scene(RED, LEFT), scene(RED, RIGHT)]
    made = apanet_jax.load(head="drawn", size=65).fit(*zip(*supports, strict=True))
    made.save(tmp_path / "red.apanet")
    (tmp_path / "photos").mkdir()
    for number in range(7):
        colour, place = (RED, GREEN)[number % 2], np.s_[10 + number : 60, 20 : 60 + 5 * number]
        Image.fromarray(scene(colour, place)[0]).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    command = [sys.executable, SCRIPT, tmp_path / "red.apanet", f"--images={tmp_path / 'photos'}"]
    command += [f"--output={tmp_path / 'found'}", "--workers=2", "--shard=2"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    subprocess.run(list(map(str, command)), check=True, env=environment)
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert len(rows) == 8
    for row in rows:
        path = Path(row["path"])
        if path.stem == "broken":
            assert "broken.png" in row["error"] and row["mask"] == b""
            continue
        mask = cv2.imdecode(np.frombuffer(row["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, made.predict([path])[0])
