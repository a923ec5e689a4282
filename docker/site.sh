#!/bin/sh
# Runs a command of an image's build with what this site needs: its index, hub, certificate authority and wheelhouse.
# An empty build argument counts as not given; a secret that was not given is not there.
set -eu
[ -n "${PIP_INDEX_URL:-}" ] || unset PIP_INDEX_URL
[ -n "${PIP_EXTRA_INDEX_URL:-}" ] || unset PIP_EXTRA_INDEX_URL
[ -n "${HF_ENDPOINT:-}" ] || unset HF_ENDPOINT
[ ! -d /wheelhouse ] || export PIP_FIND_LINKS=/wheelhouse
[ ! -f /run/secrets/pip_conf ] || export PIP_CONFIG_FILE=/run/secrets/pip_conf
[ ! -f /run/secrets/hf_token ] || export HF_TOKEN_PATH=/run/secrets/hf_token
if [ -f /run/secrets/ca ]; then
    export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
# Where it is installed, it is the compiler that is meant.
if command -v clang-16 >/dev/null; then
    export CC=clang-16 CXX=clang++-16
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
exec "$@"
