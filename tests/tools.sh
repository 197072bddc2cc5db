#!/usr/bin/env bash
# Tests the helpers for other tools with these tools' own libraries: tests/tools.sh [PYTHON [TOOL…]]
#
# Each is installed into an environment of its own, as they want other versions of what this package
# wants too: with it by pip where that can be, else without what pip would install besides, and with
# what their imports need. Nothing may be skipped: a tool that is missing there is an error. TOOL is
# annotation, label_studio, labelme, napari or yolo; without, all. The environments are of
# gigabytes, and are removed; with TOOLS_ENVIRONMENTS=DIR they stay in DIR, and a later run takes them
# again.
set -euo pipefail
python=${1:-python3}
tools=${*:2}
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
environments=${TOOLS_ENVIRONMENTS:-$place}
requirements=$place/requirements.txt
cat requirements.txt > "$requirements"
printf 'pytest\npytest-timeout\nhypothesis\n' >> "$requirements"
export QT_QPA_PLATFORM=offscreen

environment() {  # NAME PACKAGE…: installed with what this package needs, and what they need.
    "$python" -m venv "$environments/$1"
    . "$environments/$1/bin/activate"
    python -m pip install --quiet --disable-pip-version-check -r "$requirements" "${@:2}"
}

alone() {  # PACKAGE…: without what pip would install besides.
    python -m pip install --quiet --disable-pip-version-check --no-deps "$@"
}

tests() {  # PACKAGES FILTER FILE…: the packages must be there.
    python -m pip freeze | grep -iE '^(cvat|supervision|ray|label|napari|npe2|ultralytics|numpy|opencv|pillow)'
    TOOLS_INSTALLED=$1 python -m pytest -q "${@:3}" -k "$2"
    local used=$VIRTUAL_ENV
    deactivate
    [ "$environments" != "$place" ] || rm -rf "$used"
}

for tool in ${tools:-annotation label_studio labelme napari yolo}; do
    case $tool in
    annotation)
        environment annotation cvat-cli supervision 'ray[data]'
        tests "cvat-cli supervision ray" "cvat or supervision or ray" \
            tests/inference/test_tools.py tests/inference/test_ray.py
        ;;
    label_studio)
        # label-studio-ml 1.0.9 wants a Flask of 2019, label-studio-sdk an OpenCV before 5.
        environment label_studio redis rq flask colorama appdirs lxml xmljson ujson ijson jsf \
            defusedxml nltk requests-mock pyjwt pydantic httpx attrs
        alone label-studio-ml label-studio-sdk label-studio-tools
        tests label-studio-ml label_studio tests/inference/test_tools.py
        ;;
    labelme)
        environment labelme labelme
        tests labelme labelme tests/inference/test_tools.py
        ;;
    napari)
        environment napari napari npe2 magicgui PyQt6
        tests napari "napari or frames" tests/inference/test_tools.py
        ;;
    yolo)
        # ultralytics brings a second OpenCV, beside the headless one.
        environment yolo torch torchvision matplotlib polars psutil requests
        alone ultralytics ultralytics-thop
        tests ultralytics ultralytics tests/inference/test_tools.py
        ;;
    *) echo "error: $tool: expected annotation, label_studio, labelme, napari or yolo" >&2; exit 2 ;;
    esac
done
