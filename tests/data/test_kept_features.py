"""Kept features as the pipeline's threads read them."""

import threading
import time

import numpy as np

from apanet_jax.data.kept_features import KeptFeatures


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
