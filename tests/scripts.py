"""Runs the scripts in experiments/ as a user would."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(next(ROOT.glob(f"experiments/*/{name}"))), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
