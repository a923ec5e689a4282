"""What only the tests of the engine with real files need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.llama.backend import LlamaBackend
from appliance.models.store import StoredModel
from tests.model.engines import config
from tests.server import ROOT


@pytest.fixture(scope="module")
def backend(stored: StoredModel) -> Iterator[LlamaBackend]:
    """The real model, loaded."""
    with LlamaBackend(config(stored)) as loaded:
        yield loaded


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
