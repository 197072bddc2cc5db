"""The package runs no code that it reads, and asks the network for nothing but what is named."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import trees

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "apanet_jax").rglob("*.py")) + sorted((ROOT / "configs").rglob("*.py"))

RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "torch.load", "yaml.load"),
    *("dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load"),
}
RUNS_CODE_MODULES = {"subprocess", "shelve", "marshal", "dill", "cloudpickle", "joblib", "code"}
NETWORK_MODULES = {"http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "ssl"}

RUN = """
import sys
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request", "http.client.connect"):
        if not (event == "socket.connect" and isinstance(arguments[1], (str, bytes))):
            seen.append((event, str(arguments[1:])))
sys.addaudithook(hook)
from pathlib import Path
from apanet_jax.prepare import main
from apanet_jax.runs import sweep
from apanet_jax.weights.load import default_source, load_backbone
from configs import folder
from tests import small_backbone
source, root = sys.argv[1:]
try:
    main(["folder", f"--source={source}", f"--output={root}/records", "--min_area=50"])
except SystemExit as ended:
    assert not ended.code
load_backbone("efficientnet_lite0", default_source("efficientnet_lite0"))
options = f"{small_backbone.OPTIONS},episodes=4,shots=1,devices=1,pictures=1"
config = folder.get_config(f"{options},records={root}/records")
with small_backbone.added():
    sweep.run_all(config, Path(root) / "run", "train_and_evaluate")
print("seen", seen)
"""


def dotted(node):
    """Returns the name that is called, `a.b.c`, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(text):
    """Returns what a module's source does that could run foreign code or ask the network."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" in RUNS_CODE
            }
        found |= {
            f"import {name}"
            for name in modules
            # `urllib.parse` only takes addresses apart.
            if name.partition(".")[0] in RUNS_CODE_MODULES | NETWORK_MODULES
            and name != "urllib.parse"
        }
        found |= {f"import {name}" for name in modules if name.startswith("huggingface_hub")}
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in RUNS_CODE:
                found.add(name)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if "allow_pickle" in keywords and not (
                isinstance(keywords["allow_pickle"], ast.Constant)
                and keywords["allow_pickle"].value is False
            ):
                found.add("allow_pickle")
            if name.startswith("socket.") and name != "socket.gethostname":
                found.add(name)
    return found


ALLOWED = {
    # Only where --coordinator names another process of the run.
    "apanet_jax/runtime/processes.py": {"socket.create_connection"},
    # Its model card writer; nothing is asked for.
    "apanet_jax/inference/heads/model_card.py": {"import huggingface_hub"},
    # Where a source is named hf:.
    "apanet_jax/weights/hub.py": {"import huggingface_hub"},
}


def test_no_module_runs_foreign_code_or_asks_the_network():
    found = {path.relative_to(ROOT).as_posix(): findings(path.read_text()) for path in MODULES}
    assert ALLOWED.keys() <= found.keys()
    offenders = {name: sorted(what - ALLOWED.get(name, set())) for name, what in found.items()}
    assert not {name: what for name, what in offenders.items() if what}


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)",
        "import pickle\npickle.load(f)",
        "from pickle import loads",
        "import urllib.request",
        "from huggingface_hub import hf_hub_download",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import socket\nsocket.create_connection(a)",
        "from subprocess import run",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert findings(text)


def test_the_hub_is_asked_in_one_place_only():
    calls = [
        (path.name, ast.unparse(statement))
        for path in sorted((ROOT / "apanet_jax/weights").glob("*.py"))
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for statement in function.body
        if "hub.download(" in ast.unparse(statement)
    ]
    assert calls == [("load.py", "if source.startswith('hf:'):\n    return hub.download(source)")]


def test_pickles_are_read_without_python_s_own_reader():
    for name in ("torch_pickle.py", "pickle_data.py"):
        tree = ast.parse((ROOT / "apanet_jax/weights" / name).read_text())
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not imported & {"pickle", "importlib", "builtins"}
        called = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"__import__", "eval", "exec", "setattr"}


@pytest.mark.slow
def test_preparing_training_and_testing_ask_no_network(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine")
    command = [sys.executable, "-c", RUN, str(tree), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "seen []"
