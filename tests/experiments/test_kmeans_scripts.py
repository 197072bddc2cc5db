"""The kernels' experiments run to their end at small sizes."""

import json

import pytest

from tests.scripts import run_script


@pytest.mark.slow
def test_the_benchmark_writes_rows_a_page_and_a_picture(tmp_path):
    done = run_script(
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


def test_a_page_of_two_runs_keeps_the_notes_below(tmp_path):
    row = {
        "implementation": "apanet_jax",
        **{"batch": 1, "positions": 500, "channels": 16, "clusters": 5, "rounds": 10},
        **{"seconds": 0.002, "seconds_min": 0.001, "seconds_max": 0.003, "inertia": 7.0},
        **{"bytes_per_second": 1e9, "read_bytes_per_second": 4e9},
    }
    peer = row | {"implementation": "pytorch", "seconds": 0.003}
    page = tmp_path / "page.md"
    page.write_text("what was here before\n\n## By hand\n\nA note.\n")
    for name, batch in (("a", 1), ("b", 2)):
        result = {
            "device": "one core",
            "versions": {"numpy": "2"},
            "commands": [f"run {name}"],
            "load_average": [0.5],
            "missing": {"faiss": "not there"},
            "left_out": {},
            "rows": [row | {"batch": batch}, peer | {"batch": batch}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    done = run_script("kmeans_report.py", *files, f"--markdown={page}")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "before" not in text and text.endswith("\n## By hand\n\nA note.\n")
    assert "    run a\n    run b\n" in text and text.count("faiss: missing here") == 1
    # 3 ms over 2 ms, and a quarter of what plain reads reach.
    for batch in (1, 2):
        assert f"| {batch} x 500 x 16, 5 | 2 (1 to 3) | 3 (1 to 3) | 1.50 | 0.25 |" in text


def test_the_report_refuses_other_files(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    done = run_script("kmeans_report.py", str(tmp_path / "x.json"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_the_benchmark_names_the_peers_that_it_knows():
    done = run_script("kmeans_benchmark.py", "--peers=sklearn")
    assert done.returncode == 2 and "scikit-learn" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_check_of_a_device_finds_nothing_wrong(tmp_path):
    done = run_script(
        "gpu_check.py", "--small", "--only=kernels,branch", f"--json={tmp_path / 'rows.json'}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"kernels", "branch"} == {row["section"] for row in rows}
    assert all(row.get("right", True) for row in rows)
