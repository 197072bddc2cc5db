"""The kernels and features import where nothing of Unix is, as on Windows."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

IMPORT_ROOMS = """
import importlib, pkgutil, sys
from apanet_jax.runtime import errors
# Windows has none of these, and array_record no wheel there or on macOS.
for name in ("fcntl", "grp", "pwd", "resource", "termios", "array_record"):
    sys.modules[name] = None
for room in ("kernels", "models", "weights", "inference"):
    package = importlib.import_module("apanet_jax." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except errors.MissingTool:
            pass  # A helper imports another tool; tests/tools.sh installs them.
assert callable(importlib.import_module("apanet_jax").load)
"""


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_features_import_where_nothing_of_unix_is():
    run(sys.executable, "-c", IMPORT_ROOMS, cwd=ROOT)
