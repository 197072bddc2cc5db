"""What the tests of one session share: simulated devices, compiled programs, small records."""

import atexit
import gc
import itertools
import os
import shutil
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# All of this before JAX starts. Eight devices are for the tests that spread a batch.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Compiling takes nearly all of the tests' time, and a third of it with XLA's plain emitters of
# loops, which later versions have not and whose flag they refuse, and few optimisations; see
# `compiled_as_for_users`.
_EMITTERS = "xla_cpu_use_fusion_emitters"
_HAS_EMITTERS = version("jaxlib").split(".")[:2] == ["0", "10"]
if _HAS_EMITTERS:
    os.environ["XLA_FLAGS"] += f" --{_EMITTERS}=false"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Tests compile the same programs again and again; a cache of one session's own, or the one that the
# variable names, shares them, small ones too, among its workers and the processes that they start,
# which inherit the variables.
if not {"PYTEST_XDIST_WORKER", "JAX_COMPILATION_CACHE_DIR"} & os.environ.keys():
    _cache = tempfile.mkdtemp(prefix="apanet_jax_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

ABSENT = "beside the project"
"""Words in the reason of every test that is skipped for lack of files in `../shared`."""


def pytest_configure(config):
    """Has files start in their order, and `--cov` measure started processes too."""
    # Not those with most tests first, where `--dist loadfile` has a worker take file after file:
    # see `pytest_collection_modifyitems`.
    config.option.loadscopereorder = False
    # Commands that tests start, and workers that load images; not through the environment of
    # pytest's own workers, which measure themselves.
    own = hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None)
    if own and getattr(config.option, "cov_source", None):
        os.environ["COVERAGE_PROCESS_START"] = str(ROOT / "pyproject.toml")
        os.environ["COVERAGE_FILE"] = str(ROOT / ".coverage")


def pytest_terminal_summary(terminalreporter):
    """Says how many tests did not run because their data or paper is not beside the project."""
    skipped = terminalreporter.stats.get("skipped", ())
    absent = sum(ABSENT in str(report.longrepr) for report in skipped)
    shared = "is there" if (ROOT.parent / "shared").is_dir() else "is not there"
    terminalreporter.write_line(
        f"skipped for lack of files in ../shared, which {shared}: {absent} tests"
    )


def pytest_collection_modifyitems(items):
    """Has files with many slow tests go first, so that both workers end at the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


MOST_MAPPINGS = 20_000
"""Linux lets a process have 65,530 of them, and a compilation that needs more ends it with a
segmentation fault. Each compiled program keeps a few."""

_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def few_programs():
    """Lets go of compiled programs before they are too many for one process."""
    yield
    mappings = Path("/proc/self/maps")
    # Counting takes milliseconds, which are not spent after each test.
    if next(_tests) % 10 == 0 and "jax" in sys.modules and mappings.exists():
        with mappings.open("rb") as lines:
            count = sum(1 for _ in lines)
        if count > MOST_MAPPINGS:
            sys.modules["jax"].clear_caches()
            gc.collect()


@pytest.fixture(autouse=True)
def compiled_as_for_users(request):
    """The slow tests of networks and kernels compare what a user's optimised programs compute."""
    slow = request.node.get_closest_marker("slow")
    if not slow or request.path.parent.name not in ("models", "kernels", "weights"):
        yield
        return
    import jax
    from jax._src import compiler

    plain = compiler.get_compile_options

    def for_users(*arguments, **options):
        found = plain(*arguments, **options)
        if _HAS_EMITTERS:
            found.env_option_overrides += [(_EMITTERS, True)]
        return found

    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", for_users)
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session", autouse=True)
def shared_programs():
    """Runs of all tests share compiled functions as those of one command do: see `Programs`."""
    from apanet_jax.runtime.programs import Programs

    shared = Programs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apanet_jax.runs.run.Programs", lambda: shared)
        yield


@pytest.fixture(scope="module")
def small_backbone():
    """Lets settings name the backbone "small": see `tests.small_backbone`."""
    from tests import small_backbone

    with small_backbone.added():
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The records of a small data set with two folds; tests that change a copy of them."""
    from apanet_jax.data.records.writing import write_records
    from apanet_jax.data.sources.folder import FolderSource
    from tests import trees

    root = tmp_path_factory.mktemp("prepared")
    write_records(FolderSource(trees.folder_tree(root / "mine")), root / "records")
    return root / "records"
