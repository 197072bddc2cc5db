"""Records that the tests of the scripts share."""

from pathlib import Path

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
