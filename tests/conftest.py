"""The test run's own environment, its report header and its order."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.server import ROOT, RunningServer, start_server

# No setting of the machine's user may reach a test; a test's own go to a folder that ends with the run.
for _name in [name for name in os.environ if name.startswith("APPLIANCE_")]:
    if _name != "APPLIANCE_MODELS_DIR":  # where the real model is
        del os.environ[_name]
_scratch = tempfile.TemporaryDirectory(prefix="appliance-tests-")
os.environ["APPLIANCE_STATE_DIR"] = _scratch.name


if TYPE_CHECKING:
    from appliance.models.store import StoredModel

FOLDER = Path(__file__).parent

# Machines are shared and noisy: what a test computes must not depend on how fast it does. In CI a failure must be
# found again, so there the examples are always the same.
hypothesis_settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
hypothesis_settings.load_profile("tests")


def pytest_report_header() -> list[str]:
    from importlib.metadata import version

    return [f"llama-cpp-python {version('llama-cpp-python')}, openai {version('openai')}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast ones first: those with the real model come last."""
    for item in items:
        if {FOLDER / "model", FOLDER / "contract"} & set(item.path.parents):
            item.add_marker(pytest.mark.model)
    items.sort(key=lambda item: item.get_closest_marker("model") is not None)


def pytest_unconfigure() -> None:
    _scratch.cleanup()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands that run in this process set up logging for themselves."""
    root, own = logging.getLogger(), logging.getLogger("appliance")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.fixture(scope="session")
def stored() -> StoredModel:
    from appliance import settings
    from appliance.models.lock import read_lock
    from appliance.models.store import ModelStore

    model = ModelStore(settings.load().models_dir).find(read_lock(ROOT / "models.lock").entry(None))
    if model is None:
        pytest.fail("the model is not there; `make test` fetches it, or run `appliance models fetch`")
    return model


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One for all tests that leave it as it was."""
    with start_server() as running:
        yield running
