"""The libraries of other tools, which tests/tools.sh installs and no other environment has."""

import importlib
import os

import pytest


def library(name, package):
    """Returns a tool's module; without it the test is skipped, or fails where tools.sh runs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if package in os.environ.get("TOOLS_INSTALLED", "").split():
            raise
    pytest.skip(f"{package} is not installed here: tests/tools.sh installs it and runs this test")
