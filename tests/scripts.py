"""Runs the scripts in experiments/: in this process, or in one of their own as users do."""

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Done(NamedTuple):
    """What a script ended with, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def path_of(name: str) -> Path:
    return next(ROOT.glob(f"experiments/*/{name}.py"))


def module_of(name: str):
    return importlib.import_module(f"experiments.{path_of(name).parent.name}.{name}")


def run_script(name: str, *arguments: str) -> Done:
    """Calls a script's `main`, without the seconds in which a new process imports."""
    main = module_of(name).main
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main(list(arguments))
    return Done(end.value.code, out.getvalue(), err.getvalue())


def run_as_user(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(path_of(name).relative_to(ROOT)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def assert_refused(done: Done, said: str) -> None:
    """One line that says what is wrong, and the status of bad input."""
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
