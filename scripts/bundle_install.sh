#!/bin/sh
# Installs the appliance from the folder that it lies in: verifies every file, loads the image and starts it. It wants
# Docker with Compose, and no network. Called again, it goes on with the same settings (.env) and the same data.
set -eu

die() {
    echo "error: $1" >&2
    exit 1
}

find_docker() {
    command -v docker >/dev/null || die "docker is missing: install Docker first"
    # Debian's compose is a program of its own, elsewhere it is a part of docker.
    if docker compose version >/dev/null 2>&1; then
        compose="docker compose"
    elif command -v docker-compose >/dev/null; then
        compose=docker-compose
    else
        die "Docker is here without Compose: install docker-compose-plugin or docker-compose first"
    fi
    docker version >/dev/null 2>&1 || die "the Docker engine does not answer; may this user call it? (docker version)"
}

verify() {
    echo "verifying the files"
    for name in image.tar.gz IMAGE compose.yaml docker/compose.airgap.yaml .env.example models.lock install.sh; do
        grep -q "^[0-9a-f]\{64\}  \./$name\$" SHA256SUMS || die "SHA256SUMS is damaged ($name); nothing was loaded"
    done
    results=$(sha256sum -c SHA256SUMS 2>/dev/null || true)
    # A line that can't be read is no failure to sha256sum, but it is one less that is OK.
    if [ "$(printf '%s\n' "$results" | grep -c ': OK$')" -ne "$(wc -l <SHA256SUMS)" ]; then
        printf '%s\n' "$results" | grep -v ': OK$' >&2 || true
        die "files are damaged or missing: copy the archive again; nothing was loaded"
    fi
}

load() {
    { read -r image && read -r architecture; } <IMAGE
    machine=$(docker version --format '{{.Server.Arch}}')
    [ "$machine" = "$architecture" ] || die "the image is for $architecture and this machine is $machine"
    echo "loading $image"
    docker load --quiet --input image.tar.gz
}

settle() {
    [ ! -f .env ] || return 0
    cp .env.example .env
    cat >>.env <<EOF

# --- From this bundle ----------------------------------------------------------------------------------------------
IMAGE=$image
# The same for every release, so that a new one finds the data of the one before.
COMPOSE_PROJECT_NAME=llm-appliance
COMPOSE_FILE=compose.yaml:docker/compose.airgap.yaml
EOF
}

start() {
    $compose up --detach
    echo "waiting for the model"
    waited=0
    until $compose exec -T appliance appliance health >/dev/null 2>&1; do
        if [ $waited -ge 300 ]; then
            $compose logs --tail 20
            die "the appliance is not ready after 5 minutes; its latest lines are above"
        fi
        sleep 1
        waited=$((waited + 1))
    done
    address=$($compose port appliance 8080)
    echo "ready: http://$address/v1"
    echo "now try, here: $compose exec appliance appliance chat 'Hello!'"
}

main() {
    cd "$(dirname "$0")"
    verify
    find_docker
    load
    settle
    start
}

# In one piece, so that a damaged script does nothing.
main
