"""Which engine this is, known without loading it."""

from __future__ import annotations

import importlib.metadata


def engine_build() -> str:
    """The engine's build, as it enters ``system_fingerprint`` and cache keys."""
    return f"llama-cpp-python-{importlib.metadata.version('llama-cpp-python')}"
