"""The kernels work where jax and numpy alone are installed."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE_KERNELS = """
import numpy as np
import apanet_jax
from apanet_jax.kernels import KMeans, density_ratio, kmeans, masked_average
x = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
foreground = (np.arange(20) < 5).astype(np.float32)
assert np.isfinite(kmeans(x, 2).inertia)
assert np.isfinite(KMeans(2, random_state=0).fit(x.astype(float)).inertia_)
np.testing.assert_allclose(masked_average(x, foreground[:, None])[0][0], x[:5].mean(0), atol=1e-6)
ratio = density_ratio(x, x, foreground, 1 - foreground)
assert (ratio[:5] > 0).all() and (ratio[5:] < 0).all()
print(apanet_jax.__file__)
"""


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_work_where_jax_and_numpy_alone_are_installed(tmp_path):
    environment, package = tmp_path / "environment", tmp_path / "copy" / "apanet_jax"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    # The heads are large, and no code.
    shutil.copytree(
        ROOT / "apanet_jax", package, ignore=shutil.ignore_patterns("__pycache__", "heads")
    )
    variables = os.environ | {"PYTHONPATH": str(package.parent), "JAX_PLATFORMS": "cpu"}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    printed = run(python, "-c", USE_KERNELS, cwd=tmp_path, env=variables)
    assert Path(printed.strip()) == package / "__init__.py"
    installed = run(python, "-m", "pip", "list", "--format=freeze")
    names = {line.partition("==")[0].lower().replace("_", "-") for line in installed.splitlines()}
    # What jax asks for itself, and the tools of the environment.
    assert names <= {
        *("jax", "jaxlib", "numpy", "ml-dtypes", "opt-einsum", "scipy"),
        *("pip", "setuptools", "wheel"),
    }
