"""Where features are kept, and which give way."""

import math
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apanet_jax.evaluation.feature_store import BEYOND, DISK, MEMORY, FeatureStore, Ledger
from apanet_jax.runtime.errors import UserError


def store(directory, device=0, memory=0, disk=1e6):
    return FeatureStore(
        device_bytes=device, memory_bytes=memory, disk_bytes=disk, directory=directory
    )


def test_what_memory_has_no_room_for_is_read_from_disk(tmp_path):
    kept = store(tmp_path, memory=100)
    rng = np.random.default_rng(0)
    arrays = {key: {"a": rng.normal(size=(1, 8)), "b": rng.normal(size=(1, 2))} for key in range(4)}
    for key, given_ in arrays.items():
        assert kept.put(("image", key), given_)
    assert len(list(tmp_path.glob("*/*.npy"))) == 6
    for key, given_ in arrays.items():
        for name, array in kept.get(("image", key)).items():
            np.testing.assert_array_equal(array, given_[name])
    assert ("image", 3) in kept and ("image", 4) not in kept
    kept.drop(("image", 3))
    assert len(list(tmp_path.glob("*/*.npy"))) == 4 and ("image", 3) not in kept


def test_the_device_has_the_first_budget_and_memory_the_second(tmp_path):
    kept = store(tmp_path, device=8, memory=8, disk=8)
    found = [kept.put(("image", k), {"a": jnp.full((1, 2), k, jnp.float32)}) for k in range(4)]
    assert found == [True, True, True, False]
    kinds = [type(kept.get(("image", key))["a"]) for key in range(3)]
    assert issubclass(kinds[0], jax.Array) and kinds[1:] == [np.ndarray, np.memmap]
    assert not kept.put(("prior", 0), {"prior": np.zeros((1, 1), np.float32)}, places=DISK)


@pytest.mark.parametrize("kind", [jnp.bfloat16, np.float16, np.float32])
def test_every_type_comes_back_from_disk(tmp_path, kind):
    kept = store(tmp_path)
    array = np.arange(6).reshape(1, 2, 3).astype(kind)
    kept.put(("image", 0), {"a": array})
    back = kept.get(("image", 0))["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="No space left.*disk_gigabytes"):
        store(tmp_path).put(("image", 1), {"a": np.zeros((1, 3))})


def test_no_more_than_what_is_free_is_taken_of_a_disk(tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    assert store(tmp_path, disk=1e6).budgets[DISK] == 900
    assert store(tmp_path, disk=500).budgets[DISK] == 500


def test_what_is_needed_last_gives_way():
    ledger = Ledger((0, 30, 0))
    ledger.begin({"a": 1, "b": math.inf, "c": 2, "d": 1, "e": 3, "f": 0}.get)
    assert [ledger.add(name, 10) for name in "abc"] == [MEMORY] * 3
    assert ledger.add("d", 10) == MEMORY and "b" not in ledger
    assert ledger.add("e", 10) is None
    # Nothing that is needed sooner, or at the same time, gives way to it.
    assert ledger.add("f", 30, required=True) == MEMORY
    ledger.begin(lambda key: 0)
    assert ledger.add("g", 5, required=True) == BEYOND
    ledger.drop_beyond()
    assert "g" not in ledger and "f" in ledger


@given(
    budgets=st.tuples(*[st.integers(0, 50)] * 3),
    sizes=st.lists(st.integers(1, 30), max_size=30),
    data=st.data(),
)
def test_budgets_hold_whatever_comes(budgets, sizes, data):
    ledger = Ledger(budgets)
    uses = {key: data.draw(st.integers(0, 5)) for key in range(len(sizes))}
    ledger.begin(uses.get)
    held = {}
    for key, size in enumerate(sizes):
        place = ledger.add(key, size)
        if place is not None:
            held[key] = place, size
        held = {k: v for k, v in held.items() if k in ledger}
        for number, budget in enumerate(budgets):
            assert sum(s for p, s in held.values() if p == number) <= budget
    assert all(peak <= budget for peak, budget in zip(ledger.peak, budgets, strict=False))
    assert ledger.peak[BEYOND] == 0


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, sys, numpy as np; from pathlib import Path;"
        "from apanet_jax.evaluation.feature_store import FeatureStore as S;"
        "s = S(device_bytes=0, memory_bytes=0, disk_bytes=1e6, directory=Path(sys.argv[1]));"
        "s.put(('image', 1), {'a': np.zeros((1, 3))}); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.glob("features-*")
    long_ago = time.time() - 1000
    os.utime(left / "in_use.lock", (long_ago, long_ago))
    in_use, other = store(tmp_path), store(tmp_path)
    in_use.put(("image", 1), {"a": np.zeros((1, 3))})
    for lock in tmp_path.glob("features-*/in_use.lock"):
        os.utime(lock, (long_ago, long_ago))
    other.put(("image", 2), {"a": np.zeros((1, 3))})
    assert not left.exists() and len(list(tmp_path.glob("features-*/*.npy"))) == 2
