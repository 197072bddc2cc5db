"""What the scripts share: arguments, missing runs, processes, and tables."""

import sys
import types
from typing import NamedTuple

import numpy as np
import pytest

from apanet_jax.runtime.errors import UserError
from experiments import harness


def test_a_config_is_read_by_name_and_options():
    config = harness.read_config("folder:fold=2")
    assert config.fold == 2 and config == harness.read_config("configs/folder.py:fold=2")
    for text, said in (("nothing.py", "nothing.py"), ("folder:fodl=1", "did you mean 'fold'")):
        with pytest.raises(UserError, match=said):
            harness.read_config(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--n=0,3,3"], {"n": [0, 3]}),
        (["--name=b,a"], {"name": ["b", "a"]}),
        (["--name=all"], {"name": ["a", "b"]}),
        (["--count=2"], {"count": 2}),
    ],
)
def test_arguments_are_lists_and_whole_numbers(words, expected):
    found = vars(_parser().parse_args(words))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n=0,some"], "argument --n: expected whole numbers"),
        (["--name=c"], "'c' is unknown, expected some of all, a, b"),
        (["--count=0"], "argument --count: expected a whole number from 1 on"),
        (["--cou=2"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_named(words, said):
    with pytest.raises(UserError, match=said):
        _parser().parse_args(words)


def _parser():
    parser = harness.parser("What it does.")
    parser.add_argument("--n", type=harness.numbers, default="1")
    parser.add_argument("--name", type=harness.some_of(("a", "b"), all=("a", "b")), default="a")
    parser.add_argument("--count", type=harness.whole(1), default=1)
    return parser


def test_turns_begin_with_another_one_each_time():
    names = [[name for name, _ in harness.in_turn({"a": 1, "b": 2, "c": 3}, i)] for i in range(4)]
    assert names == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_noise_has_labels_of_blocks():
    batch = harness.noise_episodes(2, 3, 20, seed=(1, 2))
    assert batch["support_images"].shape == (2, 3, 20, 20, 3)
    assert batch["query_label"].shape == (2, 20, 20)
    assert set(np.unique(batch["support_labels"])) <= {0, 1, 255}
    # 20 pixels hold blocks of 3.
    assert (batch["query_label"][:, :18:3, :18:3] == batch["query_label"][:, 2:20:3, 2:20:3]).all()
    same = harness.noise_episodes(2, 3, 20, seed=(1, 2))
    assert all((same[name] == array).all() for name, array in batch.items())


def test_a_process_is_measured_and_its_failure_is_a_line(tmp_path):
    program = "import time; x = bytearray(30_000_000); time.sleep(0.3); print(len(x))"
    ended = harness.run([sys.executable, "-c", program], tmp_path)
    assert ended.output == "30000000\n" and ended.seconds >= 0.3
    assert 30e6 < ended.own_bytes < ended.peak_bytes
    with pytest.raises(UserError, match="ended with 3"):
        harness.run([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="cannot be run"):
        harness.run([tmp_path / "nothing"])


def test_times_are_a_median_and_a_range():
    row = harness.spread([0.002, 0.001, 0.004])
    assert row == {"seconds": 0.002, "seconds_min": 0.001, "seconds_max": 0.004}
    assert harness.milliseconds(row) == "2.0 (1.0 to 4.0)"
    assert harness.table(("a", "b"), [(1, "x")]) == "| a | b |\n|---|---|\n| 1 | x |\n"


class Made(NamedTuple):
    number: int

    def task(self):
        return f"task {self.number}"


def test_only_what_is_not_finished_is_run(tmp_path, monkeypatch):
    parts = [types.SimpleNamespace(config=n, folder=f"seed{n}") for n in range(3)]
    ran = []
    monkeypatch.setattr("apanet_jax.runs.sweep.parts", lambda config: parts)
    monkeypatch.setattr("apanet_jax.runs.sweep.is_finished", lambda part, _: part.config == 1)
    made = types.SimpleNamespace(make=lambda config: Made(config))
    monkeypatch.setattr("apanet_jax.runs.run.RunMaker", lambda: made)
    for name in ("training.loop.train", "runs.scoring.evaluate_checkpoints"):
        monkeypatch.setattr(f"apanet_jax.{name}", lambda *arguments: ran.append(arguments))
    config = types.SimpleNamespace(
        compilation_cache="", sweep=types.SimpleNamespace(side_by_side=False)
    )
    harness.run_missing(config, tmp_path)
    folders = {n: tmp_path / f"seed{n}" for n in (0, 2)}
    assert ran == [x for n in (0, 2) for x in ((f"task {n}", folders[n]), (Made(n), folders[n]))]
