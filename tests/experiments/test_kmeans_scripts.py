"""The kernels' experiments run to their end at small sizes."""

import json

import pytest

from tests.scripts import assert_refused, run_script


def test_the_benchmark_writes_rows_and_a_page(tmp_path):
    files = f"--json={tmp_path / 'rows.json'}", f"--markdown={tmp_path / 'page.md'}"
    options = ("--shapes=small", "--repetitions=1", "--device=cpu", "--peers=pytorch,flash-kmeans")
    done = run_script("kmeans_benchmark", *options, *files)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rows.json").read_text())
    rows = [row for row in result["rows"] if row["implementation"] == "apanet_jax"]
    assert len(rows) == 2 and {"seconds", "inertia", "batch", "memory_bytes"} <= rows[0].keys()
    # From the same centres for as many rounds, both end at the same clusters.
    for ours, theirs in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert theirs["implementation"] == "pytorch"
        assert theirs["inertia"] == pytest.approx(ours["inertia"], rel=1e-4)
    assert "flash-kmeans: missing here" in (tmp_path / "page.md").read_text()
    assert "| 2 x 200 x 32, 3 |" in done.stdout


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
    done = run_script("kmeans_report", *files, f"--markdown={page}")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "before" not in text and text.endswith("\n## By hand\n\nA note.\n")
    assert "    run a\n    run b\n" in text and text.count("faiss: missing here") == 1
    # 3 ms over 2 ms, and a quarter of what plain reads reach.
    for batch in (1, 2):
        assert f"| {batch} x 500 x 16, 5 | 2 (1 to 3) | 3 (1 to 3) | 1.50 | 0.25 |" in text


def test_bad_input_gets_one_line(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    refused = run_script("kmeans_report", str(tmp_path / "x.json"))
    assert_refused(refused, "expected files that kmeans_benchmark.py --json wrote")
    assert_refused(run_script("kmeans_benchmark", "--peers=sklearn"), "scikit-learn")


@pytest.mark.slow
def test_the_check_of_a_device_finds_nothing_wrong(tmp_path):
    options = ("--small", "--only=kernels,branch,repeat", f"--json={tmp_path / 'rows.json'}")
    done = run_script("gpu_check", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"kernels", "branch", "repeat"} == {row["section"] for row in rows}
    assert all(row.get("right", True) for row in rows)
