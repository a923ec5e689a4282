"""``needs_converter.py LOCK [NAME]...``: exit status 0 if one of these models is converted, 1 if none is.

It runs before there is anything but Python, and reads no more of the lock than that.
"""

from __future__ import annotations

import sys
import tomllib


def main() -> None:
    path, *names = sys.argv[1:]
    with open(path, "rb") as file:
        models = tomllib.load(file)["models"]
    wanted = {name.partition("@")[0] for name in names or [models[0]["name"]]}
    versions = [version for entry in models if entry["name"] in wanted for version in entry["versions"]]
    sys.exit(0 if any("conversion" in version or "adapters" in version for version in versions) else 1)


if __name__ == "__main__":
    main()
