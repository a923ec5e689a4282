"""The real model: in this process for the engine's tests, behind a real server for the others."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import settings
from appliance.models.lock import read_lock
from appliance.models.store import ModelStore, StoredModel
from tests.server import ROOT, RunningServer, start_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.model)


@pytest.fixture(scope="session")
def stored() -> StoredModel:
    model = ModelStore(settings.load().models_dir).find(read_lock(ROOT / "models.lock").entry(None))
    if model is None:
        pytest.fail("the model is not there; `make test` fetches it, or run `appliance models fetch`")
    return model


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One for all tests that leave it as it was."""
    with start_server() as running:
        yield running


@pytest.fixture(scope="session")
def spm_vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary without weights, from llama-cpp-python's source package."""
    script = ROOT / "scripts" / "llama_wheel.py"
    found = subprocess.run([sys.executable, script, "--source"], check=True, stdout=subprocess.PIPE, text=True)
    folder = tmp_path_factory.mktemp("vocab")
    with tarfile.open(found.stdout.strip()) as source:
        name = next(n for n in source.getnames() if n.endswith("models/ggml-vocab-llama-spm.gguf"))
        source.extract(name, folder, filter="data")
    return folder / name
