"""The pace that a training reports."""

import time

import pytest

from apanet_jax.training.loop import Pace


class Asynchronous:
    """Stands for an array that a device still computes: it is there after some seconds."""

    def __init__(self, seconds):
        self._ready = time.perf_counter() + seconds

    def block_until_ready(self):
        time.sleep(max(self._ready - time.perf_counter(), 0))
        return self


def test_the_pace_waits_for_the_device_before_it_reads_the_clock(monkeypatch):
    pace = Pace(0, batch_size=4)
    each_second = pace.until(10, (Asynchronous(0.2), {"loss": Asynchronous(0.1)}))
    assert 0 < each_second <= 10 * 4 / 0.2


def test_the_pace_leaves_out_what_lies_between_stretches(monkeypatch):
    now = iter([0.0, 2.0, 50.0, 51.0])
    monkeypatch.setattr("apanet_jax.training.loop.time.perf_counter", lambda: next(now))
    pace = Pace(0, batch_size=3)
    assert pace.until(4, ()) == pytest.approx(4 * 3 / 2)
    pace.restart(4)
    assert pace.until(6, ()) == pytest.approx(2 * 3 / 1)
