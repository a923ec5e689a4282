"""A loopback hub, and an appliance whose settings point to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.hub import LoopbackHub, running_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """For this process and those that it starts; no token, no proxy."""
    with running_hub() as serving:
        for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", serving.url)
        yield serving


@pytest.fixture
def appliance_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty models.lock; models and state go into it as well."""
    (tmp_path / "models.lock").write_text("# ours\nschema = 1\n")
    monkeypatch.setenv("APPLIANCE_MODELS_LOCK", str(tmp_path / "models.lock"))
    monkeypatch.setenv("APPLIANCE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("APPLIANCE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path
