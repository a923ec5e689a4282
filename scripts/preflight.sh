#!/bin/sh
# Says which packages this machine lacks to build and run the appliance, as one line to copy.
set -u
python=${1:-python3}
missing=""

command -v "$python" >/dev/null 2>&1 || missing="$missing python3 python3-venv"
if command -v "$python" >/dev/null 2>&1; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is wanted; $python is $("$python" --version 2>&1)." >&2
        echo "Name a newer one: make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
fi
command -v c++ >/dev/null 2>&1 || missing="$missing build-essential"
command -v patch >/dev/null 2>&1 || missing="$missing patch"
command -v cmake >/dev/null 2>&1 || missing="$missing cmake"

if [ -n "$missing" ]; then
    echo "This machine lacks what builds llama.cpp. Install it with:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi
