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
    # llama-cpp-python itself stands in requirements/llama.txt: it is built by a script of ours.
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-package llama-cpp-python --custom-compile-command "make lock" "$@"
}

compile requirements/build.in --upgrade -o requirements/build.txt
compile pyproject.toml --all-extras --upgrade -o "$scratch/all.txt"
compile pyproject.toml -c "$scratch/all.txt" -o requirements/runtime.txt
compile pyproject.toml --extra dev -c "$scratch/all.txt" -o requirements/dev.txt
compile pyproject.toml --extra bench -c "$scratch/all.txt" -o requirements/bench.txt
compile pyproject.toml --extra tui -c "$scratch/all.txt" -o requirements/tui.txt
