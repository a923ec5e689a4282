"""What an operator's network, disk and memory ask of ``appliance models``, by its commands."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from appliance.models.lock import HubSource, SourceFile
from appliance.models.lock_file import change_lock, with_entry
from tests.pipeline.hub import Repo, running_hub
from tests.pipeline.tiny import tiny_gguf
from tests.pipeline.workplace import Workplace
from tests.server import ROOT

N_LARGE_BYTES = 150 << 20
# Runs the command, then says the most memory that its process took.
MEASURED = """
import atexit, re
from pathlib import Path
from appliance.cli import main
atexit.register(lambda: print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with running_hub() as serving:
        place = Workplace(tmp_path / "place", serving)
        serving.repos["org/Tiny"] = Repo({"tiny-f32.gguf": tiny_gguf(tmp_path / "tiny.gguf"), "config.json": b"{}"})
        yield place


def add_and_fetch(place: Workplace) -> None:
    place.run("add", "org/Tiny", "--file", "*")
    place.run("fetch", "tiny")
    assert len(list(place.models.rglob("tiny-f32.gguf"))) == 1


def test_the_hub_is_reached_through_a_proxy(place: Workplace) -> None:
    place.more = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": place.hub.url}
    add_and_fetch(place)
    assert place.hub.requests


def test_a_network_s_own_certificates_are_believed_and_no_others(place: Workplace, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def wrapped(server: ThreadingHTTPServer) -> None:
        server.socket = context.wrap_socket(server.socket, server_side=True)

    with running_hub(wrapped) as serving:
        serving.repos = place.hub.repos
        url = serving.url.replace("http://127.0.0.1", "https://localhost")
        place.more = {"HF_ENDPOINT": url}
        assert "can't be reached: " in place.run("add", "org/Tiny", "--file", "*", status=1)
        place.more["SSL_CERT_FILE"] = str(cert)
        add_and_fetch(place)


def test_without_a_network_what_is_here_is_enough_and_what_is_missing_is_named(place: Workplace) -> None:
    add_and_fetch(place)
    place.more = {"HF_HUB_OFFLINE": "1"}
    place.run("fetch", "tiny")
    place.run("build", "tiny")
    shutil.rmtree(place.models)
    assert "HF_HUB_OFFLINE is set; unset it" in place.run("build", "tiny", status=1)
    assert "HF_HUB_OFFLINE is set; unset it" in place.run("add", "org/Tiny", "--file", "tiny*", status=1)


def test_models_that_are_not_fully_pinned_say_what_to_do(place: Workplace) -> None:
    shutil.copy(ROOT / "models.lock", place.lock_path)
    revision = "5a149550068a1eb93398160d8953f5f56c3603e9"
    for command in ("build", "fetch"):
        said = place.run(command, "phi-4-mini-instruct", status=1)
        assert f"`appliance models add microsoft/Phi-4-mini-instruct@{revision} --name phi-4-mini-instruct`" in said
        said = place.run(command, "gemma-3-1b-it-qat", status=1)
        assert "`appliance models add google/gemma-3-1b-it-qat-q4_0-gguf --name gemma-3-1b-it-qat`" in said
    assert place.hub.requests == []


def test_a_missing_converter_ends_a_build_before_anything_is_fetched(place: Workplace) -> None:
    n_requests = pin_small(place)
    place.more["APPLIANCE_CONVERTER_PYTHON"] = "/nonexistent/python"
    said = place.run("build", "m", status=1)
    assert "the converter's environment is not there (/nonexistent/python); install it with `make convert`" in said
    assert len(place.hub.requests) == n_requests


@pytest.mark.model  # wants the converter
def test_a_disk_that_is_too_small_ends_a_build_before_anything_is_fetched(place: Workplace) -> None:
    n_requests = pin_small(place)
    # The files themselves would fit.
    free = shutil.disk_usage(place.models).free
    entry = place.lock.entry("m")
    (version,) = entry.versions
    assert isinstance(version.source, HubSource)
    large = msgspec.structs.replace(
        version.source, files=(SourceFile("model.safetensors", "0" * 64, max(1, free * 2 // 5)),)
    )
    entry = msgspec.structs.replace(entry, versions=(msgspec.structs.replace(version, source=large),))
    change_lock(place.lock_path, lambda lock: with_entry(lock, entry))
    said = place.run("build", "m", status=1)
    assert re.search(r"the files of org/M and what is made of them take [\d.]+ GB, .* has [\d.]+ GB left", said)
    assert len(place.hub.requests) == n_requests


def pin_small(place: Workplace) -> int:
    """Pins a model of the hub; how many requests that took."""
    place.hub.repos["org/M"] = Repo({"model.safetensors": bytes(2000), "config.json": b"{}"})
    place.run("add", "org/M")
    return len(place.hub.requests)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory was taken at most")
def test_fetching_and_hashing_take_little_memory_whatever_the_size(place: Workplace, tmp_path: Path) -> None:
    place.hub.repos["org/Large"] = Repo({"large-f32.gguf": bytes(N_LARGE_BYTES)})
    place.run("add", "org/Large", "--file", "*")
    assert peak_bytes(place, "fetch", "large") < 100e6
    path = tmp_path / "large.gguf"
    tiny_gguf(path)
    os.truncate(path, N_LARGE_BYTES)
    assert peak_bytes(place, "import", str(path), "--name", "other") < 100e6
    assert peak_bytes(place, "verify", "--deep", "other") < 100e6


def peak_bytes(place: Workplace, *words: str) -> int:
    command = [sys.executable, "-c", MEASURED, "models", *words]
    said = subprocess.run(command, cwd=ROOT, env=place.environment, check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(said.stdout.split()[-1])
