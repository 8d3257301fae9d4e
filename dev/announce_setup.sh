#!/usr/bin/env bash
# Says before the set-up what it downloads, how much room it takes and how long it lasts.
#
#     dev/announce_setup.sh INDEX    that PyTorch comes from; empty: PyPI
set -euo pipefail

if [[ -n ${1:-} ]]; then
    echo "Set-up: PyTorch from $1. Its builds for the CPU are a download of about 0.2 GB; with the"
    echo "other packages the environment takes less than 2 GB, on two cores in about 5 minutes."
    exit
fi
echo "Set-up: about 3 GB are downloaded, the environment takes 5 GB, on two cores in about 6 minutes,"
echo "half of which the compiler takes."
if [[ $(uname -s) == Linux ]] && ! command -v nvidia-smi > /dev/null; then
    echo "There is no GPU here: most of that is CUDA. The build of PyTorch for the CPU is enough:"
    echo "    make env TORCH_INDEX=https://download.pytorch.org/whl/cpu"
fi
