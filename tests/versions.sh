#!/usr/bin/env bash
# Tries the bounds of requirements.txt: tests/versions.sh lowest|highest [PYTHON]
#
# Installs the lowest or the highest versions that it allows into an environment of their own (with
# `uv`), runs the tests of what uses these libraries most, then the quickstart in small.
set -euo pipefail
which=${1:?lowest or highest} python=${2:-python3}
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
resolution=highest
if [ "$which" = lowest ]; then resolution=lowest-direct; fi
uv venv --quiet --python "$python" "$environment/venv"
uv pip install --quiet --python "$environment/venv" --resolution "$resolution" -r requirements.txt
uv pip install --quiet --python "$environment/venv" pytest pytest-timeout hypothesis scikit-learn
. "$environment/venv/bin/activate"
python -c "import sys, jax, flax, optax, grain, numpy; print(
    'Python %d.%d,' % sys.version_info[:2], ', '.join(
        f'{x.__name__} {x.__version__}' for x in (jax, flax, optax, numpy)))"
uv pip freeze --quiet --python "$environment/venv" |
    grep -E '^(orbax-checkpoint|tensorflow-datasets|grain|array[-_]record|ml-collections|pillow)='
python -m pytest -q -m "not slow" tests/data tests/test_checkpoint.py tests/test_engine.py \
    tests/test_verify.py tests/test_segmenter.py tests/test_report.py tests/weights/test_origin.py
python -m apanet_jax.main --workdir="$environment/run" --config=configs/quickstart.py:\
generate=300,image_size=65,longer_side=65,steps=8,checkpoint_every=4,episodes=8,\
compilation_cache="$environment/cache"
python -m apanet_jax.main --workdir="$environment/run" --mode=verify
