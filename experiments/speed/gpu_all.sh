#!/bin/sh
# One GPU, one command, under 9 minutes: is it right, is it repeatable, how fast is it, and which
# path evaluates faster. From the root of a checkout:
#
#     sh experiments/speed/gpu_all.sh [--small] [--out=FOLDER]
#     sh experiments/speed/gpu_all.sh --table=RECORDS [--small] [--out=FOLDER]
#
# The first form needs jax, flax, optax, orbax-checkpoint, numpy and PyTorch; sections that need more
# (grain, ml_collections, flash-kmeans) are marked missing where it is not installed. The second one,
# which needs all of requirements.txt, makes Table IV of the records named (voc_animals at 256 pixels
# is under 40 MB) with three seeds, from images to table, and says how long that took. --small takes
# sizes for a CPU. Each part leaves JSON in FOLDER (default: gpu_all, or $OUT where that is set) and
# prints its own lines; a short table comes last. A part that fails does not stop the others.
set -u
cd "$(dirname "$0")/../.." || exit 2
small="" out="${OUT:-gpu_all}" records="" python="${PYTHON:-python}"
for argument in "$@"; do
    case $argument in
    --small) small=--small ;;
    --out=*) out=${argument#--out=} ;;
    --table=*) records=${argument#--table=} ;;
    *) echo "$argument is unknown: expected --small, --out=FOLDER or --table=RECORDS" >&2; exit 2 ;;
    esac
done
mkdir -p "$out" || exit 2

part() { # name, seconds at most, command
    name=$1 most=$2 status=0
    shift 2
    # A CPU takes its time, small as the sizes are.
    [ -z "$small" ] || most=$((20 * most))
    began=$(date +%s)
    timeout "$most" "$@" >"$out/$name.log" 2>&1 || status=$?
    spent=$(($(date +%s) - began))
    echo "{\"part\": \"$name\", \"status\": $status, \"seconds\": $spent}" >>"$out/parts.jsonl"
    echo "== $name: status $status, $spent s"
    tail -n 12 "$out/$name.log"
}

: >"$out/parts.jsonl"
if [ -n "$records" ]; then
    # Small: one fold, one seed, and few steps.
    if [ -n "$small" ]; then
        options="image_size=65,channels=8,steps=4,episodes=8,pictures=0,bundled=0,min_area=50"
        more="--folds=0 --seeds=0"
    else
        options="image_size=257,side_by_side=True" more="--seeds=0,1,2"
    fi
    part table4 540 "$python" experiments/paper/ablations.py --table=4 --workdir="$out/table4" \
        $more --config=configs/folder.py:records="$records","$options"
    cat "$out/table4/table_4.md" 2>/dev/null
else
    check() { # section, seconds at most, name
        part "${3:-$1}" "$2" "$python" experiments/speed/gpu_check.py $small --only="$1" \
            --json="$out/${3:-$1}.json"
    }
    if [ -n "$small" ]; then sizes="--size=65 --batch=2 --steps=1"
    else sizes="--size=473 --batch=4 --steps=5"; fi
    check repeat 45
    # The bits of another process are to be the same.
    check repeat 45 repeat_again
    check both_evaluations 150
    check clusters 90
    check training 105
    # Against PyTorch, compiled too. What it needs beside PyTorch is torchvision.
    part peers 100 "$python" experiments/speed/training_benchmark.py $sizes --clusters=3 \
        "--only=apanet_jax,apanet_jax bfloat16 backbone,pytorch channels last autocast,pytorch compiled" \
        --json="$out/peers.json"
fi
"$python" experiments/speed/gpu_summary.py "$out"
