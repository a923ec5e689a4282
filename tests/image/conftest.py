"""The image that `make test-image` tries out: built from a copy of the checkout, its model from a hub on loopback."""

from __future__ import annotations

import os
import ssl
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.engine import BASE_IMAGE, Project, copy_of_checkout, docker, project, run
from tests.pipeline.conftest import built, real_hub  # noqa: F401 - fixtures
from tests.pipeline.hub import GOOD_TOKEN, LoopbackHub
from tests.pipeline.workplace import REPO, Workplace

TIMEOUT_S = 1500


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only `pytest -m image` runs these: they want a Docker engine, and minutes."""
    return None if config.option.markexpr == "image" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@dataclass(frozen=True)
class Built:
    """``site``: the folder that it was built in, with its own models.lock."""

    image: str
    site: Path
    hub: LoopbackHub
    log: str
    built_s: float


@pytest.fixture(scope="session")
def appliance_image(
    built: Workplace,  # noqa: F811
    real_hub: LoopbackHub,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Built]:
    """The image, whose model the hub gives to those with a token only."""
    run("scripts/docker_engine.sh", timeout_s=600)
    site = copy_of_checkout(tmp_path_factory.mktemp("site"))
    (site / "models.lock").write_bytes(built.lock_path.read_bytes())
    (site / ".env").write_text("MODELS=smollm2-135m-instruct\n")
    image = f"llm-appliance:test-{uuid.uuid4().hex[:8]}"
    environment = {
        **os.environ,
        "BASE_IMAGE": BASE_IMAGE,
        # The hub is on this machine's loopback.
        "BUILD_NETWORK": "host",
        "HF_ENDPOINT": real_hub.url,
        "HF_TOKEN": GOOD_TOKEN,
        # Nothing that an earlier run has made: it is fetched and converted here.
        "MODELS_CACHE": image.rpartition(":")[2],
    }
    authorities = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if authorities is not None:
        environment["BUILD_CA"] = authorities
    real_hub.repos[REPO].gated = True
    real_hub.requests.clear()
    real_hub.tokens.clear()
    started = time.monotonic()
    log = run("scripts/build_image.sh", "runtime-cpu", image, cwd=site, env=environment, timeout_s=TIMEOUT_S)
    took_s = time.monotonic() - started
    real_hub.repos[REPO].gated = False
    (site / ".env").unlink()
    yield Built(image, site, real_hub, log, took_s)
    docker("image", "rm", image)


@pytest.fixture(scope="session")
def running(appliance_image: Built) -> Iterator[Project]:
    """One for all tests that leave it as it was."""
    with project(appliance_image.site, appliance_image.image) as found:
        found.up()
        yield found
