#!/usr/bin/env bash
# Tests the helpers for other tools with these tools' own libraries: tests/tools.sh [PYTHON]
#
# They are installed into an environment of their own, as they want other versions of what this
# package wants too.
set -euo pipefail
python=${1:-python3}
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
. "$place/venv/bin/activate"
pip install --quiet --disable-pip-version-check -r requirements.txt cvat-sdk supervision 'ray[data]'
pip install --quiet --disable-pip-version-check pytest pytest-timeout
pip freeze | grep -iE '^(cvat|supervision|ray|numpy|opencv|pillow)'
python -m pytest -q tests/inference/test_tools.py tests/inference/test_ray.py
