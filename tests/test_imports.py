"""The rooms' imports go one way, and no module imports itself, however far around."""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

ROOMS = (
    *("commands", "runs", "inference", "reports", "training", "evaluation", "weights", "data"),
    *("config", "models", "runtime", "kernels"),
)
"""A room imports only rooms that come after it."""

SUB_ROOMS = {
    "inference": (
        *("top", "files", "segmenter", "supports", "answers", "multiscale", "heads"),
        "matching",
    ),
    "data": ("top", "records", "sources", "annotations", "images"),
}
"""The same within a room that has rooms of its own; `top` are modules that lie above them."""

TOPS = {
    # For other programs, which are given these modules' names.
    "inference": {
        *("cvat_detection", "label_studio_backend", "label_studio_server", "napari_stack"),
        *("napari_widget", "supervision_detections"),
    },
    "data": {
        *("episode_data", "episode_files", "episodes", "folds", "kept_features", "loader"),
        "transforms",
    },
}
"""The modules on top, by room."""

COMMANDS = {"__init__", "__main__", "demo", "export", "main", "predict", "prepare", "report"}
"""What lies on top of `apanet_jax/`, beside the rooms."""

NOT_IN = {"models": {"config"}, "kernels": set(ROOMS) - {"kernels"}}
"""Rooms that a room may not import although they come after it, or at all."""

KERNELS_NEED = {"jax", "numpy", "apanet_jax", "sklearn"}
"""And the standard library: the kernels are used by themselves. scikit-learn stands in a method
that only it calls."""


class Import(NamedTuple):
    """A line of `importer` that imports the module `imported`."""

    importer: str
    line: int
    imported: str


def modules(root: Path) -> dict[str, Path]:
    """Returns the modules of the package in `root`, by their dotted names."""
    found = {}
    for path in sorted((root / "apanet_jax").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(root: Path) -> list[Import]:
    """Returns every import of a module by a module of the package, those inside functions too."""
    found, names = [], modules(root)
    for importer, path in names.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            for imported in _imported(node, package, names):
                found.append(Import(importer, node.lineno, imported))
    return found


def _imported(node, package, names):
    """Returns the modules that a statement imports; of the package itself, its version is free."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    module = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        module = ".".join([*above, *filter(None, [module])])
    wholes = {f"{module}.{alias.name}" for alias in node.names}
    inside = {whole for whole in wholes if whole in names}
    rest = {alias.name for alias in node.names if f"{module}.{alias.name}" not in inside}
    if module == "apanet_jax":
        rest -= {"__version__"}
    return inside | ({module} if rest else set())


def room_of(module: str) -> str:
    _, *parts = module.split(".")
    return "commands" if not parts or parts[0] in COMMANDS else parts[0]


def sub_room_of(module: str) -> str:
    _, room, name = module.split(".")[:3]
    return "top" if name in TOPS[room] else name


def wrong_ways(root: Path) -> list[str]:
    """Returns the lines that import a room from the wrong side."""
    names, found = modules(root), []
    for importer, line, imported in imports(root):
        if imported.partition(".")[0] != "apanet_jax":
            continue
        order, room, other = ROOMS, room_of(importer), room_of(imported)
        if room == other and room in SUB_ROOMS:
            order, room, other = SUB_ROOMS[room], sub_room_of(importer), sub_room_of(imported)
        later = order.index(other) >= order.index(room)
        if not later or other in NOT_IN.get(room, ()):
            path = names[importer].relative_to(root)
            found.append(f"{path}:{line}: {room} imports {imported}, of {other}")
    return found


def circles(root: Path) -> list[str]:
    """Returns the lines that import modules from which imports lead back."""
    found, names = imports(root), modules(root)
    graph = {name: set() for name in names}
    for importer, _, imported in found:
        if imported in graph:
            graph[importer].add(imported)

    def reached(start):
        seen, queue = set(), [start]
        while queue:
            for name in graph[queue.pop()] - seen:
                seen.add(name)
                queue.append(name)
        return seen

    return [
        f"{names[importer].relative_to(root)}:{line}: imports {imported}, which leads back"
        for importer, line, imported in found
        if imported in graph and importer in reached(imported) | {imported}
    ]


def surplus_needs(root: Path) -> list[str]:
    """Returns the lines by which the kernels need more than JAX and NumPy when they run."""
    names, allowed, found = modules(root), KERNELS_NEED | set(sys.stdlib_module_names), []
    for importer, line, imported in imports(root):
        if room_of(importer) == "kernels" and imported.partition(".")[0] not in allowed:
            if line not in _read_by_type_checkers(names[importer]):
                found.append(f"{names[importer].relative_to(root)}:{line}: imports {imported}")
    return found


def _read_by_type_checkers(path):
    """Returns the numbers of the lines below `if TYPE_CHECKING`."""
    tests = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.If)]
    blocks = [node for node in tests if "TYPE_CHECKING" in ast.unparse(node.test)]
    return {line for node in blocks for line in range(node.lineno, node.end_lineno + 1)}


def on_top(root: Path) -> set[str]:
    """Returns what lies on top of the package, without rooms and data."""
    entries = (root / "apanet_jax").iterdir()
    return {path.stem for path in entries if path.suffix == ".py" or path.is_dir()} - {
        *ROOMS,
        "__pycache__",
    }


def test_imports_go_one_way_between_the_rooms_and_in_no_circle(tmp_path):
    assert on_top(ROOT) == COMMANDS
    assert not wrong_ways(ROOT) + circles(ROOT) + surplus_needs(ROOT)
    for text, search in (
        ("from apanet_jax.training import loop", wrong_ways),
        ("def f():\n    import apanet_jax.runs.run", wrong_ways),
        ("from apanet_jax import load", wrong_ways),
        ("from .. import config", wrong_ways),
        ("from apanet_jax.config.settings import check", wrong_ways),
        ("def f():\n    from apanet_jax.models.b import x", circles),
    ):
        models = tmp_path / str(len(list(tmp_path.iterdir()))) / "apanet_jax" / "models"
        models.mkdir(parents=True)
        (models / "a.py").write_text(text)
        (models / "b.py").write_text(
            "from apanet_jax import __version__\nfrom apanet_jax.models import a\n"
        )
        assert any("models/a.py:" in line for line in search(models.parents[1])), text
    package = tmp_path / "rooms of rooms" / "apanet_jax"
    for room, low, high, lowest in (
        ("data", "images", "transforms", "images.exif"),
        ("inference", "heads", "segmenter", "matching.geometry"),
    ):
        (package / room / low).mkdir(parents=True)
        (package / room / low / "a.py").write_text(f"from apanet_jax.{room} import {high}")
        (package / room / f"{high}.py").write_text(f"import apanet_jax.{room}.{lowest}")
    of_data, of_inference = wrong_ways(package.parent)
    assert of_data.startswith("apanet_jax/data/images/a.py:1: images imports")
    assert of_inference.startswith("apanet_jax/inference/heads/a.py:1: heads imports")
