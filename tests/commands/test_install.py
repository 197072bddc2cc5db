"""The wheel, installed beside nothing of the checkout, and the one command it brings."""

import importlib.metadata
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

TRAVELS = (
    *("apanet_jax", "configs", "requirements", "requirements.txt"),
    *("LICENSE", "README.md", "pyproject.toml", "setup.py"),
)


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
    assert max(map(len, lines)) <= 80 and where.endswith(".py")


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


@pytest.mark.slow
def test_a_config_of_ones_own_goes_before_the_one_of_that_name(tmp_path):
    (tmp_path / "folder.py").write_text(
        "from apanet_jax.config.recipes import recipe\n\n"
        "def get_config(options=''):\n    return recipe('folder', 'records=mine,' + options)\n"
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
    done = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", output, source)
    assert done.returncode == 0, done.stderr
    return next(output.glob("*.whl"))


def metadata(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return archive.read(path).decode().splitlines()


@pytest.mark.slow
def test_the_wheel_holds_one_package_with_its_configs_and_data(wheel):
    assert metadata(wheel, "top_level.txt") == ["apanet_jax"]
    assert "License-Expression: Apache-2.0" in metadata(wheel, "METADATA")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, there in (("apanet_jax", "apanet_jax"), ("configs", "apanet_jax/configs")):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        here = {path.relative_to(ROOT / folder) for path in files if "pycache" not in str(path)}
        assert {f"{there}/{path.as_posix()}" for path in here} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_asks_for_what_the_lists_of_requirements_say(wheel):
    asked = [
        Requirement(line.partition(": ")[2])
        for line in metadata(wheel, "METADATA")
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


class Environment:
    """A virtual environment without pip; what it holds is what a test puts into `packages`."""

    def __init__(self, root):
        assert run(sys.executable, "-m", "venv", "--without-pip", root).returncode == 0
        self.python = root / "bin" / "python"
        asked = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        self.packages = Path(asked.stdout.strip())
        self.script = root / "bin" / "apanet-jax"

    def install(self, wheel):
        install = [sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps"]
        done = run(*install, wheel)
        assert done.returncode == 0, done.stderr

    def run(self, *words, **options):
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return run(*words, env=variables, **options)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel in an environment that takes what it needs from that of the tests."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "environment")
    others = [path for path in sys.path if path.endswith("-packages")]
    (environment.packages / "others.pth").write_text("\n".join(others) + "\n")
    environment.install(wheel)
    return environment


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(installed, tmp_path):
    def call(*arguments):
        return installed.run(installed.script, *arguments, cwd=tmp_path)

    assert "apanet-jax predict" in call("--help").stdout
    assert str(installed.packages) in call("train", "--help").stdout
    for name in ("quickstart", "quickstart.py", "configs/quickstart.py"):
        assert "did you mean 'fold'" in call("train", f"--config={name}:fodl=1").stderr
    drawn = ["--train=60", "--val=60", "--size=64", "--output=records"]
    done = call("prepare", "synthetic", *drawn)
    assert done.returncode == 0, done.stderr
    options = (
        "records=records,devices=1,min_area=20,image_size=65,longer_side=65,channels=8,steps=2,"
        "training.batch_size=2,episodes=4,evaluation.batch_size=2,shots=1,pictures=1,bundled=0"
    )
    done = call("train", f"--config=folder:{options}", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").exists()
    done = call("export", "--workdir=run", "--output=head")
    assert done.returncode == 0 and (tmp_path / "head" / "model.safetensors").exists(), done.stderr
    (tmp_path / "run" / "report.html").unlink()
    others_own_configs(tmp_path)
    done = call("report", "--workdir=run")
    assert done.returncode == 0 and (tmp_path / "run" / "report.html").exists(), done.stderr


def others_own_configs(folder):
    """Leaves a package `configs` of somebody else's in a folder, which cannot be imported."""
    (folder / "configs").mkdir()
    for name in ("__init__", "common", "folder", "own"):
        (folder / "configs" / f"{name}.py").write_text("raise SystemExit('not this one')\n")


@pytest.mark.slow
def test_a_folder_of_ones_own_configs_hides_nothing(installed, tmp_path):
    others_own_configs(tmp_path)

    def answer(config):
        # -m puts the folder before everything that is installed.
        words = [installed.python, "-m", "apanet_jax", "train", f"--config={config}"]
        return installed.run(*words, cwd=tmp_path).stderr

    assert "did you mean 'fold'" in answer("quickstart:fodl=1")
    assert "did you mean 'fold'" in answer("configs/quickstart.py:fodl=1")
    # A file that is there goes first.
    assert "not this one" in answer("configs/own.py")
    assert "not this one" in answer("configs/folder.py:fold=1")


def required(name):
    """Returns the distributions that one needs, itself among them, without extras."""
    found, waiting = {}, [name]
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if distribution.name not in found:
            found[distribution.name] = distribution
            needs = map(Requirement, distribution.requires or [])
            waiting += [x.name for x in needs if not x.marker or x.marker.evaluate({"extra": ""})]
    return found.values()


KERNELS_ALONE = """
import importlib.util
assert not any(map(importlib.util.find_spec, ("flax", "jaxtyping", "absl", "ml_collections")))
import jax
from apanet_jax.kernels import kmeans, masked_average
features = jax.random.normal(jax.random.key(0), (2, 30, 4))
found = kmeans(features, 3, key=jax.random.key(1))
prototypes, areas = masked_average(features, jax.nn.one_hot(found.assignment, 3))
assert prototypes.shape == (2, 3, 4) and areas.sum() == 60
"""


@pytest.mark.slow
def test_the_kernels_need_only_jax_and_numpy(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    for distribution in [*required("jax"), *required("numpy")]:
        for name in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
            link = environment.packages / name
            if not link.exists():
                link.symlink_to(distribution.locate_file(name))
    environment.install(wheel)
    done = environment.run(environment.python, "-c", KERNELS_ALONE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
