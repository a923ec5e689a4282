#!/bin/sh
# Has a Docker engine answer on this machine, with docker-compose and the base image: for tests on a machine that has
# neither an engine nor a registry. What is there already is left as it is. The engine goes on running; its log is in
# /var/log/dockerd.log. As root, or as somebody who may use sudo.
set -eu
base=${BASE_IMAGE:-debian:bookworm-slim}
docker=/usr/bin/docker
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo

has_engine() { $sudo $docker version >/dev/null 2>&1; }

# Debian's package: docker.io has client and engine.
missing=""
[ -x $docker ] && command -v dockerd >/dev/null || missing="docker.io iptables"
[ -x /usr/bin/docker-compose ] || missing="$missing docker-compose"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
command -v ip >/dev/null || missing="$missing iproute2"
command -v tcpdump >/dev/null || missing="$missing tcpdump"
if [ -n "$missing" ]; then
    echo "installing$missing" | tr -s ' ' >&2
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if ! has_engine; then
    # What an engine left that was killed would keep the next one from starting.
    if ! ps -C dockerd -o stat= | grep -q '^[^Z]'; then
        $sudo rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
    fi
    # By hand: a container or a minimal machine has no init system that would.
    $sudo sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &'
    waited=0
    until has_engine; do
        if [ $waited -ge 60 ]; then
            echo "the Docker engine does not answer; the end of /var/log/dockerd.log:" >&2
            $sudo tail -n 20 /var/log/dockerd.log >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
fi

if ! $sudo $docker image inspect "$base" >/dev/null 2>&1; then
    echo "making $base with debootstrap" >&2
    root=$(mktemp -d)
    trap '$sudo rm -rf "$root"' EXIT
    $sudo debootstrap --variant=minbase bookworm "$root" >"$root.log" || { tail -n 20 "$root.log" >&2; exit 1; }
    rm -f "$root.log"
    $sudo rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    $sudo tar -C "$root" -c . | $sudo $docker import - "$base" >/dev/null
fi
