#!/usr/bin/env bash
# Installs detectron2 into the environment of the given interpreter: from its official repository
# where that can be reached and builds, else the Python part of the snapshot on PyPI.
#
#     dev/install_detectron2.sh .venv/bin/python
set -euo pipefail

python=$1
repository=https://github.com/facebookresearch/detectron2.git
folder=$(cd "$(dirname "$0")/.." && pwd)

if timeout 20 git ls-remote --quiet "$repository" HEAD > /dev/null 2>&1; then
    if "$python" -m pip install --no-deps --no-build-isolation "git+$repository"; then
        exit 0
    fi
    echo "detectron2 from $repository did not build" >&2
fi
echo "installing the snapshot of detectron2 from PyPI" >&2
"$python" -m pip install --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
    --abi cp310 --platform linux_x86_64 --platform manylinux2014_x86_64 \
    --target "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    --requirement "$folder/requirements-detectron2.txt"
"$python" -c 'import detectron2; print("detectron2", detectron2.__version__)'
