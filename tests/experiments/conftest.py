"""Records that the tests of the scripts share."""

from pathlib import Path

import numpy as np
import pytest

from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from tests import trees


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("experiments")
    tree = trees.folder_tree(root / "mine", train=12, val=10)
    write_records(FolderSource(tree), root / "records", min_area=50)
    return root / "records"


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Two test episodes of the first class whose labels are random, without their images."""
    return {
        "valid": np.array([True, True]),
        "class_id": np.array([1, 1]),
        "original_label": np.random.default_rng(1).integers(0, 2, (2, 31, 31)).astype(np.uint8),
        "original_side": np.array([31, 31]),
    }
