#!/bin/sh
# Builds an image with the settings of .env and of the environment, which goes before:
#
#     scripts/build_image.sh TARGET TAG
#
# TARGET is a stage of docker/Dockerfile: runtime-cpu or runtime-cuda. Build arguments are those of .env.example; further
# ones from the environment alone: BUILD_NETWORK (host: the build sees this machine's loopback), BUILD_CA (file of
# certificates), BUILD_PIP_CONF (pip.conf) and HF_TOKEN. The last three are secrets and get into no layer.
set -eu
cd "$(dirname "$0")/.."
target=$1 tag=$2
# Debian's client has BuildKit by itself; another one that is earlier on the PATH may want buildx for it.
docker=${DOCKER:-/usr/bin/docker}
[ -x "$docker" ] || docker=docker

# The value of a setting: of the environment, else of .env, else nothing.
setting() {
    eval "value=\${$1:-}"
    if [ -z "$value" ] && [ -f .env ]; then
        value=$(sed -n "s/^$1=//p" .env | tail -n 1)
    fi
    printf %s "$value"
}

set -- --file docker/Dockerfile --target "$target" --tag "$tag"
base=$(setting BASE_IMAGE)
set -- "$@" --build-arg \
    "BASE_IMAGE=${base:-debian:bookworm-slim@sha256:4724b8cc51e33e398f0e2e15e18d5ec2851ff0c2280647e1310bc1642182655d}"
for name in MODELS MODELS_CACHE APT_MIRROR APT_SECURITY_MIRROR PIP_INDEX_URL TORCH_INDEX_URL HF_ENDPOINT \
    CUDA_ARCHITECTURES SOURCE_DATE_EPOCH; do
    value=$(setting $name)
    [ -z "$value" ] || set -- "$@" --build-arg "$name=$value"
done
[ -z "${BUILD_NETWORK:-}" ] || set -- "$@" --network "$BUILD_NETWORK"
[ -z "${BUILD_CA:-}" ] || set -- "$@" --secret "id=ca,src=$BUILD_CA"
[ -z "${BUILD_PIP_CONF:-}" ] || set -- "$@" --secret "id=pip_conf,src=$BUILD_PIP_CONF"
if [ -n "${HF_TOKEN:-}" ]; then
    # As a file: Docker 20.10 takes secrets of no other kind.
    token=$(mktemp)
    trap 'rm -f "$token"' EXIT
    printf %s "$HF_TOKEN" >"$token"
    set -- "$@" --secret "id=hf_token,src=$token"
fi
DOCKER_BUILDKIT=1 "$docker" build "$@" .
