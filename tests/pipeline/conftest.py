"""A loopback hub, and an appliance whose settings point to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appliance.models.store import StoredModel
from scripts.llama_wheel import cache_dir
from tests.pipeline.hub import LoopbackHub, Repo, running_hub
from tests.pipeline.repos import hub_format
from tests.pipeline.workplace import CONVERTER_PYTHON, NAME, REPO, Workplace


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """For this process and those that it starts; no token, no proxy."""
    with running_hub() as serving:
        for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", serving.url)
        yield serving


@pytest.fixture(scope="session")
def real_hub(stored: StoredModel) -> Iterator[LoopbackHub]:
    if not CONVERTER_PYTHON.exists():
        pytest.fail("the converter is not there; `make test` installs it, or run `make convert`")
    repo = Repo({})
    repo.add_folder(hub_format(stored.path, cache_dir() / "tests"))
    with running_hub() as serving:
        serving.repos[REPO] = repo
        yield serving


@pytest.fixture(scope="session")
def built(real_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The default model in Q4_0, made by the commands that the README names."""
    place = Workplace(tmp_path_factory.mktemp("built"), real_hub)
    said = place.run("add", REPO)
    assert "build it with: appliance models build smollm2-135m-instruct" in said
    said = place.run("build", NAME)
    assert "Q4_0 against unquantized: perplexity" in said
    return place
