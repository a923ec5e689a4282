"""The archive of `make bundle` on another machine: an engine of its own, with no image and no route to anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.image.conftest import Built
from tests.image.engine import DOCKER, MODEL, run

ASK = """
import json, sys, urllib.request
body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
request = urllib.request.Request(sys.argv[1], json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
"""


@dataclass(frozen=True)
class Machine:
    """A network namespace in which a Docker engine runs."""

    namespace: str
    folder: Path

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def run(self, *words: str | Path, **options: Any) -> str:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), "DOCKER_HOST": self.host}
        # Not `ip netns exec`: that would hide the cgroups.
        return run("nsenter", f"--net=/run/netns/{self.namespace}", *words, env=environment, **options)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # The paths of unix sockets must be short.
    with tempfile.TemporaryDirectory(prefix="dk") as scratch:
        found = Machine(f"cut{uuid.uuid4().hex[:6]}", Path(scratch))
        run("ip", "netns", "add", found.namespace)
        engine = None
        try:
            run("ip", "-n", found.namespace, "link", "set", "lo", "up")
            command = ["dockerd", "--host", found.host, "--pidfile", f"{scratch}/pid"]
            command += ["--data-root", f"{scratch}/data", "--exec-root", f"{scratch}/exec"]
            with (found.folder / "log").open("wb") as log:
                words = ["nsenter", f"--net=/run/netns/{found.namespace}", *command]
                engine = subprocess.Popen(words, stdout=log, stderr=log)
            until = time.monotonic() + 60
            while "Server" not in found.run(DOCKER, "version", status=None):
                assert time.monotonic() < until, (found.folder / "log").read_text()[-2000:]
                time.sleep(0.2)
            yield found
            for container in found.run(DOCKER, "ps", "--quiet").split():
                found.run(DOCKER, "rm", "--force", "--volumes", container)
        finally:
            if engine is not None:
                engine.terminate()
                engine.wait(60)
            run("ip", "netns", "delete", found.namespace)


@pytest.fixture(scope="module")
def archive(appliance_image: Built) -> Path:
    said = run("scripts/bundle.sh", appliance_image.image, cwd=appliance_image.site, env=os.environ, timeout_s=300)
    (found,) = (appliance_image.site / "dist").glob("*.tar")
    assert f"tar -xf {found.name}" in said
    return found


@pytest.fixture
def unpacked(archive: Path, machine: Machine) -> Iterator[Path]:
    """The archive on the other machine, as it is told on the first."""
    target = machine.folder / uuid.uuid4().hex[:8]
    target.mkdir()
    machine.run("tar", "-xf", archive, "-C", target)
    (folder,) = target.iterdir()
    yield folder
    shutil.rmtree(target)


@pytest.mark.parametrize("name", ["image.tar.gz", "compose.yaml", "SHA256SUMS"])
def test_a_flipped_byte_is_refused_before_anything_is_loaded(machine: Machine, unpacked: Path, name: str) -> None:
    path = unpacked / name
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    said = machine.run("./install.sh", cwd=unpacked, status=1)
    assert "nothing was loaded" in said
    assert machine.run(DOCKER, "images", "--quiet") == ""
    assert not (unpacked / ".env").exists()


def test_a_file_that_is_missing_is_refused(machine: Machine, unpacked: Path) -> None:
    (unpacked / "docker" / "compose.airgap.yaml").unlink()
    said = machine.run("./install.sh", cwd=unpacked, status=1)
    assert "compose.airgap.yaml" in said
    assert machine.run(DOCKER, "images", "--quiet") == ""


def test_it_installs_and_serves_without_a_route(machine: Machine, unpacked: Path) -> None:
    routes = machine.run("ip", "route")
    assert "default" not in routes
    said = machine.run("./install.sh", cwd=unpacked, timeout_s=400)
    assert "ready: http://127.0.0.1:8080/v1" in said
    answer = machine.run("python3", "-c", ASK, "http://127.0.0.1:8080/v1/chat/completions")
    assert answer.strip()
    words = ["docker-compose", "exec", "-T", "appliance", "appliance", "models", "ls"]
    assert MODEL in machine.run(*words, cwd=unpacked)
    # Again, with the settings and data that are there.
    (unpacked / ".env").write_text((unpacked / ".env").read_text() + "APPLIANCE_MAX_WAITING=7\n")
    assert "ready:" in machine.run("./install.sh", cwd=unpacked, timeout_s=400)
    environment = machine.run("docker-compose", "exec", "-T", "appliance", "env", cwd=unpacked)
    assert "APPLIANCE_MAX_WAITING=7" in environment
