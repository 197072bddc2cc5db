#!/usr/bin/env bash
# Tries the bounds of requirements.txt: tests/versions.sh lowest|highest [PYTHON]
#
# Installs the lowest or the highest versions that it allows into an environment of their own, runs
# the tests of what uses these libraries most, then a small quickstart, and counts it again.
set -euo pipefail
which=${1:?lowest or highest} python=${2:-python3}
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
case $which in
lowest) sed -E '/^#/d; s/ *#.*//; s/>=([0-9.]+)(,<[0-9.]+)?/==\1/' requirements.txt ;;
highest) cat requirements.txt ;;
*) echo "error: $which: expected lowest or highest" >&2; exit 2 ;;
esac > "$place/requirements.txt"
"$python" -m venv "$place/venv"
. "$place/venv/bin/activate"
install="pip install --quiet --disable-pip-version-check --no-compile"
$install -r "$place/requirements.txt"
$install pytest pytest-timeout hypothesis scikit-learn
python --version
pip freeze | grep -iE \
    '^(jax|jaxlib|flax|optax|orbax-checkpoint|grain|tensorflow-datasets|array.record|numpy|pillow)='
python -m pytest -q -m "not slow" tests/training/test_checkpoints.py tests/runs/test_recount.py \
    tests/inference/test_segmenter.py tests/reports/test_pages.py tests/data/records/test_records.py tests/data/test_loader.py
options=generate=300,image_size=65,longer_side=65,steps=8,checkpoint_every=4,episodes=8
options=$options,compilation_cache=$place/compiled
python -m apanet_jax.main --workdir="$place/run" --config="configs/quickstart.py:$options"
python -m apanet_jax.main --workdir="$place/run" --mode=verify
