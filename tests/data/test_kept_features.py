"""Kept features as the pipeline's threads read them."""

import threading
import time

import numpy as np
import pytest

from apanet_jax.data.kept_features import KeptFeatures, keep_features
from apanet_jax.models.apanet import ImageFeatures
from apanet_jax.runtime.errors import UserError


def load(index):
    return {"image": np.zeros((16, 16, 3), np.uint8), "label": np.full((16, 16), index, np.uint8)}


def test_threads_open_files_one_after_the_other(tmp_path, monkeypatch):
    # Python 3.11 fails at times where two threads parse the headers of files at once.
    names = tuple(f"map{number}" for number in range(4))
    for name in names:
        np.save(tmp_path / f"{name}.npy", np.arange(6).reshape(1, 2, 3))
    load, busy, most = np.load, [], []

    def watched(*arguments, **options):
        busy.append(None)
        most.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", watched)
    found = {}

    def read(name):
        found[name] = KeptFeatures(tmp_path, 2, (name,)).view(0, 1)[name]

    threads = [threading.Thread(target=read, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert all(found[name].tolist() == [3, 4, 5] for name in names)


def test_features_beyond_half_precision_are_refused(tmp_path):
    def embed(images):
        return ImageFeatures(np.full((len(images), 2, 2, 3), 7e4, np.float32), None)

    with pytest.raises(UserError, match="middle features reach 70000, .*features.keep=False"):
        keep_features(embed, load, 1, 1, ("middle", "label"), tmp_path, "a", 0)


def test_a_folder_that_cannot_be_made_is_told_with_the_setting(tmp_path):
    (tmp_path / "features").write_text("a file")
    with pytest.raises(UserError, match="could not be kept .*features.directory"):
        keep_features(None, load, 1, 1, ("middle",), tmp_path / "features", "a", 0)


def test_a_file_made_again_is_read_again(tmp_path):
    kept = KeptFeatures(tmp_path, 1, ("middle",))
    for value in (1, 2):
        np.save(tmp_path / "new.npy", np.full((1, 1, 3), value))
        (tmp_path / "new.npy").replace(tmp_path / "middle.npy")
        assert kept.view(0, 0)["middle"].tolist() == [value] * 3


def test_a_file_written_again_in_its_place_is_read_again(tmp_path):
    # A file system may also give a new file the number of one that was removed.
    kept = KeptFeatures(tmp_path, 1, ("middle",))
    for value in (1, 2):
        np.save(tmp_path / "middle.npy", np.full((1, 1, 3), value))
        assert kept.view(0, 0)["middle"].tolist() == [value] * 3


def test_a_batch_is_written_while_the_next_one_is_computed(tmp_path):
    second, sizes = threading.Event(), []

    class OnDevice:
        def __array__(self, dtype=None, copy=None):
            assert second.wait(60)
            return np.ones((2, 2, 2, 3), np.float32)

    def embed(images):
        sizes.append(len(images))
        if len(sizes) == 2:
            second.set()
        return ImageFeatures(OnDevice(), None)

    kept = keep_features(
        embed, load, 5, 1, ("middle", "label"), tmp_path, "a", workers=0, batch_size=2
    )
    assert sizes == [2, 2, 2]
    assert [kept.view(image, 0)["label"][0, 0] for image in range(5)] == list(range(5))
