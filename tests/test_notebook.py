"""docs/apanet_jax.ipynb: run from top to bottom, small, by this Python on a CPU."""

import ast
import json
import os
import re
import sys
from base64 import b64decode
from io import BytesIO

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from apanet_jax import __main__
from tests import trees
from tests.scripts import ROOT

NOTEBOOK = ROOT / "docs" / "apanet_jax.ipynb"
TINY = "image_size=65,longer_side=65,channels=8,training.batch_size=2,evaluation.batch_size=2"
SMALL = {
    "SOURCE": str(ROOT),
    "QUICKSTART": (
        f"{TINY},generate=120,variants=apanet,min_area=300,shots=1,steps=2,episodes=4,pictures=2"
    ),
    "SIZE": "129",
    "DRAWN": "48",
    "OWN_TRAINING": f"{TINY},steps=2,episodes=4,pictures=1,bundled=0",
    "KMEANS": "--shapes=small --peers=scikit-learn --repetitions=1",
}


def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def python_of(cell):
    """A cell's code without the lines that only IPython understands."""
    lines = cell.source.splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def client(notebook, folder, **settings):
    """Has cells run in `folder` by a kernel of this very Python, whatever kernels are installed."""
    specs = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    assert manager.kernel_spec.argv[0] == sys.executable
    environment = os.environ | {f"NOTEBOOK_{name}": value for name, value in settings.items()}
    # The checkout need not be installed to be tested. The last flag counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    environment |= {"IPYTHONDIR": str(folder / "ipython")}
    made = NotebookClient(
        notebook, km=manager, timeout=600, resources={"metadata": {"path": folder}}
    )
    return made, {"env": environment}


def executed(notebook, folder, **settings):
    made, options = client(notebook, folder, **settings)
    return made.execute(**options)


class Outputs:
    """What a cell left: text, and pictures."""

    def __init__(self, notebook, name):
        (cell,) = (cell for cell in notebook.cells if cell.id == name)
        self.text, self.pictures = "", []
        for output in cell.outputs:
            data = output.get("data", {})
            self.text += output.get("text", "") + data.get("text/markdown", "")
            if "image/png" in data:
                self.pictures.append(Image.open(BytesIO(b64decode(data["image/png"]))))


def test_the_stored_notebook_holds_no_outputs():
    notebook = stored()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and not cell.outputs
            ast.parse(python_of(cell))


def test_the_commands_that_it_names_exist():
    text = "\n".join(cell.source for cell in stored().cells)
    named = set(re.findall(r'"apanet_jax", "(\w+)"', text)) | set(
        re.findall(r"apanet-jax (\w+)", text)
    )
    assert {"train", "predict", "prepare"} <= named <= set(__main__._COMMANDS)
    for path in re.findall(r"`((?:docs|experiments)/[\w./]+)`", text):
        assert (ROOT / path).exists()


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    done = executed(stored(), tmp_path, **SMALL, RUNS=str(tmp_path / "runs"))

    assert "nothing to install" in Outputs(done, "install").text
    assert "jax" in Outputs(done, "devices").text
    assert "mIoU" in Outputs(done, "quickstart").text
    assert len(Outputs(done, "quickstart-pictures").pictures) == 2
    assert "5 supports, 6 queries" in Outputs(done, "own-pictures").text

    found = Outputs(done, "predict")
    (sheet,) = found.pictures
    assert min(sheet.size) > 200 and "| with_5.png |" in found.text

    assert "36 training and 12 test images" in Outputs(done, "prepare").text
    trained = Outputs(done, "train")
    (row,) = json.loads((tmp_path / "runs" / "mine" / "results.json").read_text())
    assert f"| mean | {row['miou']:.1f} |" in trained.text and len(trained.pictures) == 1
    assert len(Outputs(done, "use").pictures) == 1
    assert Outputs(done, "pascal").text.count("\n") == 1
    assert "| apanet_jax | scikit-learn |" in Outputs(done, "benchmark").text
    assert "quickstart/apanet/results.json" in Outputs(done, "results").text
    assert Outputs(done, "verify").text.count("the same again") == 1


def only(*names):
    """The notebook with some of its cells."""
    notebook = stored()
    notebook.cells = [cell for cell in notebook.cells if cell.id in names]
    return notebook


@pytest.mark.slow
def test_pascal_is_taken_where_it_lies_and_a_command_that_fails_stops_it(tmp_path):
    voc, sbd, _ = trees.pascal_tree(tmp_path / "pascal", own=12, sbd=14, both=2, val=14)
    settings = {"SOURCE": str(ROOT), "VOC": str(voc), "SBD": str(sbd)}
    settings |= {"PASCAL_PREPARE": "--any_count", "PASCAL_TRAINING": "fold=9"}
    notebook = only("settings", "install", "devices", "pascal", "results")
    with pytest.raises(CellExecutionError, match="ended with status 2"):
        executed(notebook, tmp_path, **settings)
    text = Outputs(notebook, "pascal").text
    assert "14 test images" in text and "has no fold 9" in text
    assert not Outputs(notebook, "results").text
