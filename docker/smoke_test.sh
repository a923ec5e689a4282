#!/bin/sh
# The installed package answers: every command has help, the default model loads, and a chat comes back.
set -eu
appliance --version
for command in serve chat status plan hardware doctor health models; do
    appliance "$command" --help >/dev/null
done
export APPLIANCE_HOST=127.0.0.1 APPLIANCE_STATE_DIR=/tmp/state APPLIANCE_MODELS_DIR=/tmp/models
export APPLIANCE_MODELS_LOCK=/tmp/models/models.lock
mkdir -p /tmp/state /tmp/models
entrypoint.sh serve &
server=$!
waited=0
until appliance health; do
    waited=$((waited + 1))
    [ $waited -lt 120 ] || exit 1
    sleep 1
done
appliance chat 'Hello!'
kill $server
wait $server
