"""Where compiled programs are kept."""

from pathlib import Path

import jax
import pytest

from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """As in a process in which nothing has been set; the tests' own cache comes back."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def kept():
    keep_compiled(DIRECTORY)
    return jax.config.jax_compilation_cache_dir


def test_without_a_home_folder_nothing_is_kept(monkeypatch):
    def no_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert not kept()


def test_the_folder_for_caches_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    assert kept() == "/home/me/.cache/apanet_jax"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept() == str(tmp_path / "apanet_jax")
