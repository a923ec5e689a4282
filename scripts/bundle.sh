#!/bin/sh
# Writes dist/llm-appliance-VERSION-FLAVOUR-ARCHITECTURE.tar: all that a machine with Docker and no network needs.
#
#     scripts/bundle.sh IMAGE
set -eu
cd "$(dirname "$0")/.."
image=$1
docker=${DOCKER:-/usr/bin/docker}
[ -x "$docker" ] || docker=docker
architecture=$("$docker" image inspect --format '{{.Architecture}}' "$image") || {
    echo "there is no image $image; build it with: make image" >&2
    exit 1
}
name=$(printf %s "${image##*/}" | tr : -)-$architecture
mkdir -p dist
scratch=$(mktemp -d dist/.bundle.XXXXXX)
container=""
trap 'rm -rf "$scratch"; [ -z "$container" ] || "$docker" rm "$container" >/dev/null' EXIT
folder=$scratch/$name
mkdir -p "$folder/docker" "$folder/config"
cp compose.yaml .env.example "$folder/"
cp docker/compose.*.yaml "$folder/docker/"
cp -r docker/prometheus docker/grafana "$folder/docker/"
cp config/README.md "$folder/config/"
cp scripts/bundle_install.sh "$folder/install.sh"
chmod 755 "$folder/install.sh"
printf '%s\n%s\n' "$image" "$architecture" >"$folder/IMAGE"
container=$("$docker" create "$image")
"$docker" cp --follow-link "$container:/opt/models/models.lock" "$folder/models.lock"
echo "saving $image" >&2
"$docker" save "$image" --output "$scratch/image.tar"
gzip -n -1 <"$scratch/image.tar" >"$folder/image.tar.gz"
(cd "$folder" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
tar -C "$scratch" --sort=name --owner=0 --group=0 --numeric-owner -cf "$scratch/$name.tar" "$name"
mv "$scratch/$name.tar" "dist/$name.tar"
(cd dist && sha256sum "$name.tar" >"$name.tar.sha256")
cat >&2 <<EOF
dist/$name.tar, $(du -m "dist/$name.tar" | cut -f1) MB, sha256 $(cut -d ' ' -f 1 "dist/$name.tar.sha256")
On the other machine: tar -xf $name.tar && cd $name && ./install.sh
EOF
