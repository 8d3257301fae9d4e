#!/usr/bin/env bash
# Installs detectron2 into the environment of the given interpreter: from its official repository
# where that can be reached and builds, else the Python part of the snapshot on PyPI. What an
# interrupted run or another requirements-detectron2.txt has left is replaced.
#
#     dev/install_detectron2.sh .venv/bin/python
set -euo pipefail

python=$1
repository=https://github.com/facebookresearch/detectron2.git
folder=$(cd "$(dirname "$0")/.." && pwd)
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Files that are complete when it returns 0: those that its own list names.
check() {
    "$python" - << 'END'
from importlib.metadata import distributions

found = [x for x in distributions() if x.name.lower().endswith("detectron2")]
missing = [file for x in found for file in x.files or ["RECORD"] if not x.locate_file(file).exists()]
if len(found) != 1 or missing:
    raise SystemExit(f"detectron2 is not complete: {len(found)} installed, {missing[:3]} missing")
import detectron2

print("detectron2", detectron2.__version__)
END
}

if timeout 20 git ls-remote --quiet "$repository" HEAD > /dev/null 2>&1; then
    rm -rf "$packages"/sal_detectron2-*.dist-info
    if "$python" -m pip install --no-deps --no-build-isolation --force-reinstall \
        "git+$repository" && check; then
        exit 0
    fi
    echo "detectron2 from $repository did not build" >&2
fi
echo "installing the snapshot of detectron2 from PyPI" >&2
# Beside what is there, so that a failure leaves that; then one after the other takes its place.
rm -rf "$packages"/.new_detectron2.*
new=$(mktemp -d "$packages/.new_detectron2.XXXXXX")
trap 'rm -rf "$new"' EXIT
"$python" -m pip install --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
    --abi cp310 --platform linux_x86_64 --platform manylinux2014_x86_64 \
    --target "$new" --requirement "$folder/requirements-detectron2.txt"
rm -rf "$packages"/detectron2 "$packages"/*detectron2-*.dist-info
for entry in "$new"/*; do
    rm -rf "$packages/$(basename "$entry")"
    mv "$entry" "$packages/"
done
check
