#!/usr/bin/env bash
# All that a GPU is asked, by one command that runs to its end by itself.
#
#     benchmarks/gpu/run.sh [--cpu] [--small] [--limit SECONDS] [--out FOLDER] [--data FOLDER] [STEP...]
#
# Steps, in this order (none named: all):
#
#     ceilings, decode     always: the machine, its two measured ceilings; the images decoded once
#     same                 the device against the CPU, against itself, in other chunks
#     features, paper      the published recipe at full size on the published split, 3 seeds
#     tile-features, by-tile   the same with whole tiles held out, 5 folds
#     speed, published, maps, graphs, profile, fit, compile
#
# The machine needs Python 3.11 or newer, torch, torchvision, NumPy, SciPy, safetensors and Pillow. FrEIA, the weights and the
# images are carried: `python -m benchmarks.gpu.pack FOLDER` writes them to benchmarks/gpu/package/ (under 60 MiB), which git
# ignores. What is carried is this repository and that folder; they are unpacked here.
#
# Figures go to OUT/results.jsonl as they come, a profile to OUT/profile.txt. Scratch files (5 GB) go to WORK and are used again.
# Each step has a limit of its own and ends with it; --limit is for all together. Two calls of at most ten minutes:
#
#     OUT=out benchmarks/gpu/run.sh --limit 500 same features paper tile-features by-tile
#     OUT=out benchmarks/gpu/run.sh --limit 300 speed published maps graphs profile fit compile
#
# To check the script on a machine without a GPU: benchmarks/gpu/run.sh --cpu --small
set -euo pipefail
cd "$(dirname "$0")/../.."
package=benchmarks/gpu/package
export WORK=${WORK:-${TMPDIR:-/tmp}/differnet-gpu}
if [[ -f $package/data.tar.gz && ! -d $WORK/data/mtd ]]; then
    mkdir -p "$WORK/data.part"
    tar -xzf "$package/data.tar.gz" -C "$WORK/data.part"
    mv "$WORK/data.part" "$WORK/data"
fi
site=
if [[ -d $package/site ]]; then site=:$PWD/$package/site; fi
python=${PYTHON:-}
if [[ -z $python ]]; then
    if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; else python=python3; fi
fi
export PYTHONPATH=$PWD$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
exec "$python" -m benchmarks.gpu "$@"
