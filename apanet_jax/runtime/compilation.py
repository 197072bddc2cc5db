"""How programs are compiled: the same bits each time, and kept for later processes."""

import contextlib
import os
from pathlib import Path

import jax
from jax._src import xla_bridge

DETERMINISTIC = "--xla_gpu_deterministic_ops"
"""XLA's flag: no operation that adds up in any order, and no kernels chosen by their speed."""

DIRECTORY = "~/.cache/apanet_jax"


def make_deterministic() -> None:
    """Has a GPU compute the same bits each time; before any device is asked for.

    What has no such way on a GPU fails to compile. Other devices take no notice. Where the variable
    XLA_FLAGS says otherwise, or devices were asked for before, nothing changes.
    """
    if _asked_for() is None and not xla_bridge.backends_are_initialized():
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} {DETERMINISTIC}=true".strip()


def is_deterministic() -> bool:
    """Returns whether XLA was told to compute the same bits each time, by whoever it was."""
    return bool(_asked_for())


def _asked_for() -> bool | None:
    """Returns what XLA_FLAGS says of `DETERMINISTIC`, of several times the last; None: nothing."""
    said = None
    for flag in os.environ.get("XLA_FLAGS", "").split():
        name, equals, value = flag.partition("=")
        if name == DETERMINISTIC:
            said = value.lower() in ("true", "1") if equals else True
    return said


def keep_compiled(directory: str) -> None:
    """Has programs that took a second or more to compile kept for later processes.

    Where there is no home folder, as in containers with a foreign user id, none are kept.

    Args:
      directory: where; "" for nowhere. XDG_CACHE_HOME stands for `~/.cache` in it, and JAX's own
        variable JAX_COMPILATION_CACHE_DIR goes first.
    """
    if not directory or jax.config.jax_compilation_cache_dir:
        return
    cache, home = os.environ.get("XDG_CACHE_HOME"), "~/.cache/"
    if cache and directory.startswith(home):
        directory = os.path.join(cache, directory.removeprefix(home))
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))
