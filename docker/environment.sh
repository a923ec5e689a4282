#!/bin/sh
# environment REQUIREMENTS...: makes /opt/appliance of the wheel in /wheels and of the pinned others, hash-checked.
set -eu
for requirements in "$@"; do
    /build/bin/pip wheel --quiet --no-deps --require-hashes --wheel-dir /wheels -r "$requirements"
done
python3 -m venv --without-pip /opt/appliance
/build/bin/pip --python /opt/appliance/bin/python install --quiet --no-deps --no-index --no-compile /wheels/*.whl
# Tests of numpy and jsonschema, 17 MB.
find /opt/appliance/lib/python*/site-packages/numpy /opt/appliance/lib/python*/site-packages/jsonschema -type d -name tests -prune -exec rm -r {} +
# By content instead of by time: such files are the same on every machine, and are right in a read-only image.
python3 -m compileall -q --invalidation-mode unchecked-hash /opt/appliance/lib
find /opt/appliance -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
