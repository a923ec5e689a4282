#!/bin/sh
# Serves, or runs the command that is named. First the image's models get into the lock that imports are written to.
set -eu
[ $# -gt 0 ] || set -- serve
case $1 in
    serve)
        python /opt/appliance/bin/merge_lock.py /opt/models/models.lock "$APPLIANCE_MODELS_LOCK"
        set -- appliance "$@"
        ;;
esac
exec "$@"
