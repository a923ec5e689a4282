#!/bin/sh
# Resolves requirements/*.txt anew: exact versions with hashes, no index address.
set -eu
python=${1:-python3}
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9

compile() {
    # llama-cpp-python itself stands in requirements/llama.txt: it is built by a script of ours. sqlite-utils wants pip
    # for a command of its own, and each virtual environment has one.
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-package llama-cpp-python --no-emit-package pip --custom-compile-command "make lock" "$@"
}

compile requirements/build.in --upgrade -o requirements/build.txt
compile requirements/cuda.in --upgrade -o requirements/cuda.txt
compile requirements/cuda-runtime.in -c requirements/cuda.txt -o requirements/cuda-runtime.txt
compile pyproject.toml --all-extras --upgrade -o "$scratch/all.txt"
compile pyproject.toml -c "$scratch/all.txt" -o requirements/runtime.txt
compile pyproject.toml --extra dev -c "$scratch/all.txt" -o requirements/dev.txt
compile pyproject.toml --extra bench -c "$scratch/all.txt" -o requirements/bench.txt
compile pyproject.toml --extra tui -c "$scratch/all.txt" -o requirements/tui.txt
# The converter's environment. torch stands in the input with its version; its hash depends on the index, and what it
# wants of CUDA is nothing that the CPU build needs.
compile requirements/convert.in --upgrade -o "$scratch/convert.txt"
cuda=$(grep -oE '^(torch|triton|nvidia|cuda)[a-z0-9-]*' "$scratch/convert.txt" | sed 's/^/--no-emit-package /')
# shellcheck disable=SC2086
compile requirements/convert.in -c "$scratch/convert.txt" $cuda -o requirements/convert.lock

# uv notes where each constraint comes from, which is a scratch folder.
sed -i "\|$scratch|d" requirements/*.txt requirements/convert.lock
