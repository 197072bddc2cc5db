"""Eight simulated devices on the CPU, for the tests that spread a batch; set before jax starts."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# Tests compile the same programs again and again; a cache of one session's own shares them, among
# its workers too, which inherit the variable.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="apanet_jax_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache


def _set_flag(values, name, flag):
    flag.allow_override = True
    _set_flag_once(values, name, flag)


# Scripts are processes of their own, and each has a --config: tests import several into one.
_set_flag_once = flags.FlagValues.__setitem__
flags.FlagValues.__setitem__ = _set_flag


def pytest_configure(config):
    """With --cov, commands that tests start are measured too, and workers that load pictures.

    Not through the environment of pytest's own workers, which measure themselves.
    """
    own = hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None)
    if own and getattr(config.option, "cov_source", None):
        root = Path(__file__).parents[1]
        os.environ["COVERAGE_PROCESS_START"] = str(root / "pyproject.toml")
        os.environ["COVERAGE_FILE"] = str(root / ".coverage")


MOST_MAPPINGS = 20_000
"""Linux lets a process have 65,530 of them, and a compilation that needs more ends it with a
segmentation fault. Each compiled program keeps a few."""


@pytest.fixture(autouse=True)
def few_programs():
    """Lets go of compiled programs before they are too many for one process."""
    yield
    mappings = Path("/proc/self/maps")
    if "jax" in sys.modules and mappings.exists():
        with mappings.open("rb") as lines:
            count = sum(1 for _ in lines)
        if count > MOST_MAPPINGS:
            sys.modules["jax"].clear_caches()
            gc.collect()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The records of a small tree, which each module of tests has for itself."""
    # Not before the variables above are set: they import jax.
    from apanet_jax.data import records
    from apanet_jax.data.sources.folder import FolderSource
    from tests import trees

    root = tmp_path_factory.mktemp("prepared")
    records.write(FolderSource(trees.folder_tree(root / "mine")), root / "records")
    return root / "records"
