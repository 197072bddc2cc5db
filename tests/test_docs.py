"""README.md and docs/: links, commands, settings and Python that they show exist."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import flags

from apanet_jax import __main__, main
from apanet_jax.config import settings
from apanet_jax.config.options import flat_fields
from apanet_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# tests/experiments/test_pages.py tries the commands that run scripts, on these pages too.
WITH_RESULTS = [*PAGES, *sorted((ROOT / "experiments").rglob("*.md"))]
MODULES = {"main": "train", "__main__": ""}
LEFT_OPEN = ("…", "[", "{", "CONFIG", "$")
"""A command line with one of these leaves something to the reader."""


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda p: p.relative_to(ROOT).as_posix())


class Command(NamedTuple):
    """A command line: `train`, `prepare`, …, and its arguments."""

    name: str
    arguments: list[str]


def blocks(text):
    """Yields the code of a page: fenced blocks with their language, indented ones with none."""
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        yield language, code
    unfenced = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for code in re.findall(r"(?:^(?: {4}|\t).*\n|^\n(?= {4}))+", unfenced, re.M):
        yield "", re.sub(r"^ {4}", "", code, flags=re.M)
    for code in re.findall(r"`([^`\n]+)`", unfenced):
        yield "", code


def commands(text):
    """Yields the command lines of a page that start this project's programs."""
    for language, code in blocks(text):
        if language == "python":
            continue
        for line in re.sub(r"\\\n\s*", "", code).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                del words[0]
            if found := started(words):
                yield line, found


def started(words):
    if words[:1] == ["apanet-jax"] and words[1:]:
        return Command(words[1], words[2:])
    if words[:2] == ["python", "-m"] and words[2:] and words[2].startswith("apanet_jax."):
        module = words[2].removeprefix("apanet_jax.")
        return Command(MODULES.get(module, module), words[3:])
    return None


def option_names(arguments):
    """Returns the names of the options among some arguments, without dashes and values."""
    return [a.partition("=")[0].removeprefix("--") for a in arguments if a.startswith("--")]


@functools.cache
def known_options(name, *subcommand):
    """Returns the options that the help of a command, or of its subcommand, names."""
    module = importlib.import_module(f"apanet_jax.{__main__._COMMANDS[name][0]}")
    printed, refused = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(refused):
        with pytest.raises(SystemExit) as ended:
            module.main([*subcommand, "--help"])
    assert not ended.value.code, refused.getvalue()
    return set(re.findall(r"--([\w-]+)", printed.getvalue()))


@functools.cache
def all_settings():
    return dict(flat_fields(config_of("common")))


def config_of(given):
    """Returns the checked config that `--config=given` names."""
    name, _, options = given.partition(":")
    path = ROOT / "configs" / f"{Path(name).stem}.py"
    assert path.is_file(), f"no config {name}"
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*([options] if options else []))
    settings.check(config)
    return config


def check_command(command, line):
    name, arguments = command
    options = option_names(arguments)
    if name == "train":
        assert main._CONFIG.name in flags.FLAGS
        for option in options:
            if option.startswith("config."):
                assert option.removeprefix("config.") in all_settings()
            else:
                assert option in flags.FLAGS or option == "help", f"train has no --{option}"
    elif "." in name:
        assert importlib.util.find_spec(f"apanet_jax.{name}"), f"no module {name}"
    else:
        assert name in __main__._COMMANDS, f"no command {name}"
        known = known_options(name, *(arguments[:1] if name == "prepare" else []))
        assert set(options) <= known, f"{name} has no {set(options) - known}"
    for argument in arguments:
        given = argument.removeprefix("--config=")
        if given != argument and not given.startswith(("configs/saved", "saved", "mine.py")):
            if not any(mark in line for mark in LEFT_OPEN):
                config_of(given)


@each(PAGES)
def test_commands_have_the_options_that_a_page_gives_them(page):
    for line, command in commands(page.read_text()):
        if command.name.startswith(("-", "COMMAND", "…")):
            continue
        try:
            check_command(command, line)
        except Exception as error:
            raise AssertionError(f"{page.relative_to(ROOT)}: {line.strip()}: {error}") from error


def test_commands_are_found():
    page = (
        "Text\n\n    XLA_FLAGS=x python -m apanet_jax.main \\\n        --config=configs/folder.py\n"
        "\nand `apanet-jax predict --output=DIR` and\n\n```\napanet-jax report --workdir=DIR\n```\n"
    )
    found = sorted(command for _, command in commands(page))
    assert found == [
        Command("predict", ["--output=DIR"]),
        Command("report", ["--workdir=DIR"]),
        Command("train", ["--config=configs/folder.py"]),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "apanet-jax predict --nothing",
        "apanet-jax nothing",
        "apanet-jax prepare nothing --output=DIR",
        "apanet-jax train --config=folder:fodl=1",
        "apanet-jax train --config=fodler",
        "apanet-jax train --config=folder --config.training.stepps=2",
    ],
)
def test_what_does_not_exist_is_refused(line):
    with pytest.raises((AssertionError, UserError, ValueError)):
        check_command(started(shlex.split(line)), line)


def heading(text):
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@each(WITH_RESULTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            assert anchor in map(heading, headings), f"{page.name}: {target}"


@each(PAGES)
def test_python_on_a_page_imports_what_there_is(page):
    for language, code in blocks(page.read_text()):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("apanet_jax"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_readme_is_short_and_the_index_complete():
    assert len((ROOT / "README.md").read_text().split()) <= 1200
    index = (ROOT / "docs" / "README.md").read_text()
    for path in sorted((ROOT / "docs").iterdir()):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def architecture():
    return (ROOT / "docs" / "architecture.md").read_text()


def test_the_files_that_architecture_names_exist():
    package = ROOT / "apanet_jax"
    for name in re.findall(r"`([\w/]+\.py)`", architecture()):
        assert list(package.rglob(name)) or (ROOT / name).exists(), name
    for path, name in re.findall(r"`([\w/]+\.py)`, `([\w.]+)`", architecture()):
        if not name.endswith(".py"):
            assert name.rpartition(".")[2] in (package / path).read_text(), f"{path}: {name}"


def test_architecture_lists_what_rooms_import():
    rows = re.findall(r"^\| (.*?) \| .*? \| (.*?) ?\|$", architecture(), re.M)
    listed = {
        re.sub(r"\W", "", cell.partition(":")[0]): set(filter(None, imports.split(", ")))
        for cell, imports in rows
        if cell.startswith(("commands", "`"))
    }
    assert {"commands", "runs", "kernels"} <= set(listed)
    package = ROOT / "apanet_jax"
    for path in package.rglob("*.py"):
        room = room_of(path.relative_to(package).with_suffix("").parts)
        for imported in imported_rooms(path):
            if imported != room and "package" not in (imported, room):
                where = f"{path.relative_to(ROOT)} imports {imported}"
                assert imported in listed[room], f"{where}, which docs/architecture.md lacks"


def room_of(parts):
    if parts[0] in ("__init__", "__version__"):
        return "package"
    is_room = (ROOT / "apanet_jax" / parts[0]).is_dir() and parts[0] != "demo"
    return parts[0] if is_room else "commands"


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *parts = name.split(".")
            if top == "apanet_jax":
                known = parts and list((ROOT / "apanet_jax").glob(f"{parts[0]}*"))
                yield room_of(parts) if known else "package"
