"""Made-up machines: what the kernel writes, in a folder."""

from __future__ import annotations

from pathlib import Path

MEMINFO = "MemTotal:  16000000 kB\nMemFree:  1000000 kB\nMemAvailable:  12000000 kB\nHugePages_Total:  0\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
