"""The wheel, installed beside nothing of the checkout, and the one command it brings."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from apanet_jax.__main__ import main
from tests.scripts import ROOT

TRAVELS = ("apanet_jax", "configs", "requirements", "README.md", "pyproject.toml")


def run(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def command(*arguments, **options):
    return run(sys.executable, "-m", "apanet_jax", *arguments, **options)


@pytest.fixture
def answer(monkeypatch, capsys):
    """The status, output and errors of the command, run in this process."""

    def answer(*arguments):
        monkeypatch.setattr(sys, "argv", ["apanet-jax", *arguments])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return answer


def test_the_command_says_what_there_is(answer):
    status, printed, errors = answer("--help")
    assert status == 0 and not errors
    assert all(name in printed for name in ("predict", "prepare", "train", "export", "report"))
    assert max(map(len, printed.splitlines())) <= 80
    assert answer() == (status, printed, errors)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict"], "apanet-jax predict --support a.jpg"),
        (["prepare"], "labelme"),
        (["prepare", "coco_file"], "--annotations FILE"),
        (["export"], "model.safetensors"),
        (["report"], "--workdir WORKDIR"),
    ],
)
def test_each_command_has_a_help_that_fits_a_terminal(answer, arguments, says):
    status, printed, errors = answer(*arguments, "--help")
    assert status == 0 and says in printed and not errors
    assert max(map(len, printed.splitlines())) <= 80


def test_the_help_of_train_names_the_configs():
    done = command("train", "--help", env=os.environ | {"COLUMNS": "80"})
    assert done.returncode == 0 and not done.stderr
    assert "--mode=train_and_evaluate|train|evaluate|verify" in done.stdout
    assert all(name in done.stdout for name in ("quickstart", "folder", "pascal"))
    *lines, where = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and where.endswith("common.py")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["prepare"], "see apanet-jax prepare --help"),
        (["predict", "--nothing"], "see apanet-jax predict --help"),
    ],
)
def test_a_wrong_command_line_is_one_line(answer, arguments, says):
    status, printed, errors = answer(*arguments)
    assert status == 2 and not printed and says in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config=fodler"], "there are coco, compare"),
        (["--config=configs/folder.py:fodl=1"], "did you mean 'fold'"),
    ],
)
def test_a_wrong_config_is_one_line(arguments, says, tmp_path):
    done = command("train", *arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_a_config_of_ones_own_goes_before_the_one_of_that_name(tmp_path):
    (tmp_path / "folder.py").write_text(
        "from configs import folder\n\n"
        "def get_config(options=''):\n    return folder.get_config('records=mine,' + options)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name, records in (("folder.py", "mine"), ("folder", ".")):
        done = command("train", f"--config={name}:fold=1", cwd=tmp_path, env=environment)
        assert f"data.records='{records}' holds no records" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing an earlier build left comes into it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in TRAVELS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    shutil.copy(ROOT / "requirements.txt", source / "requirements.txt")
    done = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", output, source)
    assert done.returncode == 0, done.stderr
    return next(output.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_asks_for_what_the_lists_of_requirements_say(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        text = archive.read(name).decode()
    asked = [
        Requirement(line.partition(": ")[2])
        for line in text.splitlines()
        if line.startswith("Requires-Dist")
    ]
    for extra, path in [("", ROOT / "requirements.txt")] + [
        (path.stem, path) for path in (ROOT / "requirements").glob("*.txt")
    ]:
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        listed = [x for x in asked if (f'extra == "{extra}"' if extra else "None") in str(x.marker)]
        for requirement in listed:
            requirement.marker = None
        assert set(listed) == {Requirement(line) for line in lines if line}


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(wheel, tmp_path):
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    packages = Path(
        run(
            environment / "bin" / "python",
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
        ).stdout.strip()
    )
    # What it needs comes from the environment of the tests.
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    install = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install"]
    done = run(*install, "--no-deps", "--force-reinstall", wheel)
    assert done.returncode == 0, done.stderr
    script = environment / "bin" / "apanet-jax"
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def installed(*arguments):
        return run(script, *arguments, cwd=folder, env=variables)

    assert "apanet-jax predict" in installed("--help").stdout
    assert str(packages) in installed("train", "--help").stdout
    drawn = ["--train=60", "--val=60", "--size=64", "--output=records"]
    done = installed("prepare", "synthetic", *drawn)
    assert done.returncode == 0, done.stderr
    options = (
        "records=records,devices=1,min_area=20,image_size=65,longer_side=65,channels=8,steps=2,"
        "training.batch_size=2,episodes=4,evaluation.batch_size=2,shots=1,pictures=1"
    )
    done = installed("train", f"--config=folder:{options}", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "results.json").exists()
    done = installed("export", "--workdir=run", "--output=head")
    assert done.returncode == 0 and (folder / "head" / "model.safetensors").exists(), done.stderr
