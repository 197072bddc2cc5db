"""What XLA was told about computing the same bits each time."""

import pytest

from apanet_jax.runtime import compilation

FLAG = compilation.DETERMINISTIC


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", False),
        ("--xla_force_host_platform_device_count=8", False),
        (f"{FLAG}=true", True),
        (FLAG, True),
        (f"{FLAG}=false", False),
        (f"{FLAG}=true --other=1 {FLAG}=false", False),
        (f"{FLAG}_other=true", False),
    ],
)
def test_the_flag_that_is_in_effect_is_told(monkeypatch, flags, expected):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert compilation.is_deterministic() == expected


def test_it_is_asked_for_only_before_there_are_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setattr(compilation.xla_bridge, "backends_are_initialized", lambda: True)
    compilation.make_deterministic()
    assert not compilation.is_deterministic()
    monkeypatch.setattr(compilation.xla_bridge, "backends_are_initialized", lambda: False)
    compilation.make_deterministic()
    assert compilation.is_deterministic()


def test_who_asked_for_speed_keeps_it(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=false")
    monkeypatch.setattr(compilation.xla_bridge, "backends_are_initialized", lambda: False)
    compilation.make_deterministic()
    assert not compilation.is_deterministic()
