"""``merge_lock.py IMAGE_LOCK LOCK``: brings the models of an image into the lock file of its volume, in front.

What was added to the volume's lock stays behind them. A model that both have keeps the volume's further versions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from appliance.errors import ApplianceError
from appliance.files import write_atomically
from appliance.models.lock import Entry, Lock, read_lock
from appliance.models.lock_file import change_lock


def merged(image: Lock, own: Lock) -> Lock:
    by_name = {entry.name: entry for entry in own.models}
    first = [_with_versions(entry, by_name.pop(entry.name, None)) for entry in image.models]
    return msgspec.structs.replace(own, models=(*first, *by_name.values()))


def _with_versions(entry: Entry, own: Entry | None) -> Entry:
    if own is None:
        return entry
    known = {version.short for version in entry.versions}
    further = (version for version in own.versions if version.short not in known)
    return msgspec.structs.replace(entry, versions=(*entry.versions, *further))


def main() -> None:
    image, own = map(Path, sys.argv[1:])
    try:
        if own.exists():
            change_lock(own, lambda lock: merged(read_lock(image), lock))
        else:
            write_atomically(own, image.read_bytes())
    except ApplianceError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
