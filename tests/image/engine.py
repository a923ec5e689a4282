"""A real Docker engine, docker-compose, and the appliance in it as an operator has it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.server import ROOT

# Debian's, of both: the engine's own client has BuildKit without buildx.
DOCKER = "/usr/bin/docker"
COMPOSE = "/usr/bin/docker-compose"
BASE_IMAGE = "debian:bookworm-slim"
MODEL = "smollm2-135m-instruct"
SITE_PACKAGES = "/opt/appliance/lib/python3.11/site-packages"


def run(*words: str | Path, status: int | None = 0, timeout_s: float = 120, **options: Any) -> str:
    """What a program says on both streams."""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, **options
    )
    assert status in (None, done.returncode), f"{words} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def docker(*words: str | Path, **options: Any) -> str:
    return run(DOCKER, *words, **options).strip()


def inspect(thing: str) -> Any:
    return json.loads(docker("inspect", thing))[0]


def copy_of_checkout(target: Path) -> Path:
    """What a clone has, with changes that aren't committed, and the wheelhouse."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    shutil.copytree(ROOT / "docker" / "wheelhouse", target / "docker" / "wheelhouse", dirs_exist_ok=True)
    return target


@dataclass
class Project:
    """A project of docker-compose, in the folder that it was copied to."""

    folder: Path
    name: str
    environment: dict[str, str]

    def compose(self, *words: str, **options: Any) -> str:
        return run(COMPOSE, *words, cwd=self.folder, env=self._environment(), **options)

    @property
    def container(self) -> str:
        # Asked of the engine: docker-compose takes half a second for it.
        labels = (f"project={self.name}", "service=appliance")
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        return docker("ps", "--all", "--quiet", *filters)

    @property
    def url(self) -> str:
        return f"http://{docker('port', self.container, '8080/tcp')}"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = inspect(self.container)["State"]
        return found

    def up(self, *words: str) -> float:
        """Starts it and waits until it is ready; the seconds that this took."""
        started = time.monotonic()
        self.compose("up", "--detach", *words)
        self.wait_ready()
        return time.monotonic() - started

    def wait_ready(self, timeout_s: float = 90) -> None:
        url, until = self.url, time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200:
                    return
            assert time.monotonic() < until, self.compose("logs", "--no-color")
            time.sleep(0.05)

    def inside(self, *words: str, **options: Any) -> str:
        """What a program says that is run in the container."""
        return docker("exec", self.container, *words, **options)

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120, trust_env=False)

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "5")

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "COMPOSE_PROJECT_NAME": self.name, **self.environment}


@contextlib.contextmanager
def project(folder: Path, image: str, *overlays: str, **environment: str) -> Iterator[Project]:
    """One that isn't up yet; all of it is gone at the end. Docker chooses the port."""
    files = ":".join(["compose.yaml", *overlays])
    settings = {"IMAGE": image, "COMPOSE_FILE": files, "PUBLISH_PORT": "0", "RESTART": "no", **environment}
    found = Project(folder, f"test{uuid.uuid4().hex[:8]}", settings)
    try:
        yield found
    finally:
        found.down()
