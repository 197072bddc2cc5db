"""Files appear whole or not at all, also where a file system cannot do what most can."""

import errno
import os

import pytest

from apanet_jax.runtime import atomic_files
from apanet_jax.runtime.atomic_files import move, write_bytes, writing
from apanet_jax.runtime.errors import UserError


def refusing(number, of=lambda source, target: True):
    """An `os.replace` that says this of some renames, as file systems do."""
    replace = os.replace

    def refused(source, target):
        if of(os.fspath(source), os.fspath(target)):
            raise OSError(number, os.strerror(number))
        replace(source, target)

    return refused


def test_what_is_interrupted_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"before")
    with pytest.raises(KeyboardInterrupt), writing(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.json"]


def test_text_is_utf_8_whatever_the_system_s_encoding(tmp_path):
    with writing(tmp_path / "a.txt") as file:
        file.write("käfer")
        assert file.encoding == "utf-8"
    assert (tmp_path / "a.txt").read_bytes() == "käfer".encode()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "drive").mkdir()
    link = tmp_path / "a.json"
    link.symlink_to(tmp_path / "drive" / "b.json")
    write_bytes(link, b"new")
    assert link.is_symlink() and (tmp_path / "drive" / "b.json").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_synchronise_is_written_to(tmp_path, monkeypatch, number):
    def refused(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_disk_that_fails_to_synchronise_is_told(tmp_path, monkeypatch):
    def failed(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failed)
    with pytest.raises(UserError, match="cannot be written: Input/output error"):
        write_bytes(tmp_path / "a", b"x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
def test_where_nothing_can_be_renamed_there_is_one_line_of_warning(
    tmp_path, monkeypatch, capsys, number
):
    path = tmp_path / "a.json"
    path.write_bytes(b"before, and longer")
    monkeypatch.setattr(os, "replace", refusing(number))
    write_bytes(path, b"after")
    told = capsys.readouterr().err
    assert path.read_bytes() == b"after" and os.listdir(tmp_path) == ["a.json"]
    assert told.startswith("warning: ") and told.count("\n") == 1 and "cannot rename" in told


@pytest.mark.parametrize("folder", [False, True])
def test_between_file_systems_it_is_copied_beside_its_place_first(
    tmp_path, monkeypatch, capsys, folder
):
    source, two = tmp_path / "one" / "x", tmp_path / "two"
    source.parent.mkdir()
    two.mkdir()
    if folder:
        source.mkdir()
        (source / "inner").write_text("content")
    else:
        source.write_text("content")
    other = lambda source, target: "/one/" in source and "/two/" in target  # noqa: E731
    monkeypatch.setattr(os, "replace", refusing(errno.EXDEV, other))
    move(source, two / "y")
    moved = two / "y" / "inner" if folder else two / "y"
    assert moved.read_text() == "content" and not capsys.readouterr().err
    assert not os.listdir(source.parent) and os.listdir(two) == ["y"]


def test_a_full_disk_between_file_systems_leaves_both_sides(tmp_path, monkeypatch):
    source, target = tmp_path / "x", tmp_path / "y"
    source.write_text("new")
    target.write_text("old")

    def full(source, target):
        open(target, "w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refusing(errno.EXDEV))
    monkeypatch.setattr(atomic_files, "_copy", full)
    with pytest.raises(OSError, match="No space"):
        move(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]
