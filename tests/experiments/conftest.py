"""Records and tiny trained runs that the tests of the scripts share."""

from pathlib import Path
from typing import NamedTuple

import pytest

from apanet_jax.data import records
from apanet_jax.data.sources.folder import FolderSource
from experiments.paper import ablations
from experiments.paper.ablation_report import Table, TableRow
from tests import trees
from tests.scripts import Done, run_script


class Sweep(NamedTuple):
    """A finished sweep of baseline and APANet, fold 0, seeds 0 and 1, and rows without training.

    Attributes:
      workdir: with the runs and the table "tiny".
      config: the `--config` of it.
      arguments: of the command.
      done: what it printed.
    """

    workdir: Path
    config: str
    arguments: tuple[str, ...]
    done: Done


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("experiments")
    tree = trees.folder_tree(root / "mine", train=12, val=10)
    records.write(FolderSource(tree), root / "records", min_area=50)
    return root / "records"


@pytest.fixture(scope="session")
def sweep(tiny_records, tmp_path_factory) -> Sweep:
    workdir = tmp_path_factory.mktemp("sweep") / "runs"
    config = (
        f"configs/folder.py:records={tiny_records},min_area=50,image_size=65,longer_side=65,"
        "channels=8,steps=2,training.batch_size=2,evaluation.batch_size=8,episodes=24,shots=1,"
        "devices=1,workers=0,weights=random,compilation_cache="
    )
    rows = (
        TableRow("baseline", "baseline"),
        TableRow("APANet", "apanet"),
        TableRow("no training", "training_free_prototype"),
    )
    arguments = ("--table=tiny", "--folds=0", "--seeds=0,1", f"--workdir={workdir}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ablations.TABLES, "tiny", Table("", "tiny", rows))
        free = run_script(
            "training_free", f"--config={config},folds=0,seeds=0", f"--workdir={workdir}"
        )
        done = run_script("ablations", f"--config={config}", *arguments)
        assert free.returncode == 0, free.stderr
        yield Sweep(workdir, config, arguments, done)
