#!/bin/sh
# Installs Debian packages in an image's build, and leaves nothing but them: no lists, no logs, no mirror's address.
set -eu
export DEBIAN_FRONTEND=noninteractive
set -- --yes --no-install-recommends "$@"
options="-qq"
[ ! -f /run/secrets/ca ] || options="$options -o Acquire::https::CAInfo=/run/secrets/ca"
if [ -n "${APT_MIRROR:-}" ]; then
    printf 'deb %s bookworm main\ndeb %s bookworm-updates main\n' "$APT_MIRROR" "$APT_MIRROR" >/tmp/sources.list
    [ -z "${APT_SECURITY_MIRROR:-}" ] ||
        printf 'deb %s bookworm-security main\n' "$APT_SECURITY_MIRROR" >>/tmp/sources.list
    options="$options -o Dir::Etc::SourceList=/tmp/sources.list -o Dir::Etc::SourceParts=/dev/null"
fi
# shellcheck disable=SC2086
apt-get $options update
# shellcheck disable=SC2086
apt-get $options install "$@"
rm -rf /tmp/sources.list /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache \
    /var/cache/debconf/*-old /var/lib/dpkg/*-old
