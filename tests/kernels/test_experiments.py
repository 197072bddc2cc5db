"""The kernels' experiments run to their end at small sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "experiments" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_benchmark_writes_rows_a_page_and_a_picture(tmp_path):
    done = run(
        "kmeans_benchmark.py",
        "--shapes=small",
        "--repetitions=1",
        "--device=cpu",
        f"--json={tmp_path / 'rows.json'}",
        f"--markdown={tmp_path / 'page.md'}",
        f"--plot={tmp_path / 'plot.png'}",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rows.json").read_text())
    rows = [row for row in result["rows"] if row["implementation"] == "apanet_jax"]
    assert len(rows) == 2 and {"seconds", "inertia", "batch"} <= rows[0].keys()
    assert "flash-kmeans" in result["missing"]
    assert "flash-kmeans: missing here" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_the_benchmark_names_the_peers_that_it_knows():
    done = run("kmeans_benchmark.py", "--peers=sklearn")
    assert done.returncode == 2 and "scikit-learn" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_check_of_a_device_finds_nothing_wrong(tmp_path):
    done = run(
        "gpu_check.py", "--small", "--only=kernels,branch", f"--json={tmp_path / 'rows.json'}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"kernels", "branch"} == {row["section"] for row in rows}
    assert all(row.get("right", True) for row in rows)
