"""Every page names commands that still run, and every CSV of runs has the same form."""

import contextlib
import csv
import functools
import io
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from experiments import harness
from experiments.paper.run_lines import FIELDS
from tests.scripts import ROOT, module_of

RESULTS = ROOT / "experiments" / "results"
PAGES = sorted(RESULTS.glob("*.md"))
BESIDE = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def commands_of(page):
    """The commands of a page's indented blocks, and the scripts with arguments in its text."""
    text = page.read_text()
    block = re.compile(r"(?:^ {4}.*\n)+", re.M)
    lines = re.sub(r"^ {4}", "", "".join(block.findall(text)), flags=re.M)
    # Outside of blocks every second piece between backticks is code.
    spans = block.sub("", text).replace("\n", " ").split("`")[1::2]
    return [*lines.replace("\\\n", "").splitlines(), *spans]


def scripts_of(page):
    """Yields the names and words of commands that run a script of experiments/."""
    for command in commands_of(page):
        found = re.search(r"(?:experiments/\w+/)?(\w+)\.py(?: (.*))?$", command.partition(" > ")[0])
        is_command = found and (command.startswith("python ") or found.start() == 0)
        if is_command and list(ROOT.glob(f"experiments/*/{found[1]}.py")):
            if "experiments/" in found[0]:
                assert (ROOT / found[0].split()[0]).exists(), command
            # A script's name alone, in a sentence, is no command.
            if command.startswith("python ") or found[2]:
                yield found[1], shlex.split(re.sub(r"[][]", "", found[2] or ""))


def modules_of(page):
    """Yields the words behind `python -m` of commands that run the package."""
    for command in commands_of(page):
        if found := re.search(r"python -m (apanet_jax\.\w+.*)$", command):
            yield shlex.split(re.sub(r"[][]", "", found[1]))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_commands_that_its_scripts_accept(page):
    commands = list(scripts_of(page))
    for name, words in commands:
        module_of(name).arguments().parse_args(words)
    assert commands or list(modules_of(page))


@pytest.mark.parametrize("page", BESIDE, ids=lambda page: page.stem)
def test_other_pages_name_scripts_with_arguments_that_they_have(page):
    for name, words in scripts_of(page):
        # An example that is no module parses its arguments as it is run.
        if name != "serve_program":
            known = module_of(name).arguments().format_help()
            for word in words:
                assert not word.startswith("--") or word.partition("=")[0] in known, (name, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_settings_and_flags_that_the_package_has(page):
    for module, *words in modules_of(page):
        subcommand = [words[0]] if not words[0].startswith("-") else []
        help_text = help_of(module, *subcommand)
        for word in words:
            option, _, value = word.partition("=")
            if option == "--config":
                harness.read_config(value)
            elif option.startswith("--"):
                assert option in help_text, f"{module} has no {option}"


@functools.cache
def help_of(*words):
    if words[0] == "apanet_jax.main":
        # Its flags may be defined in this process already.
        command = [sys.executable, "-m", *words, "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [words[0], *words[1:], "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    assert not end.value.code
    return printed.getvalue()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_table_of_runs_has_the_agreed_columns(path):
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert lines and all(tuple(line) == FIELDS for line in lines)
    runs = [tuple(value for name, value in line.items() if name != "miou") for line in lines]
    assert len(set(runs)) == len(runs)
    for line in lines:
        for name in ("fold", "seed", "shot", "image_size", "episodes"):
            assert line[name].isdecimal(), line
        assert 0 <= float(line["miou"]) <= 100
        is_free = line["variant"].startswith("training_free")
        assert is_free == (line["num_clusters"] == "")
        if line["variant"] in ("baseline", "apanet"):
            assert line["num_clusters"] == {"baseline": "0", "apanet": "3"}[line["variant"]]


def test_every_script_stands_in_the_readme_and_every_page_too():
    text = (ROOT / "experiments" / "README.md").read_text()
    for path in ROOT.glob("experiments/*/*.py"):
        if "__main__" in path.read_text():
            assert f"`{path.name}" in text, path
    for path in PAGES:
        assert f"(results/{path.name})" in text, path
