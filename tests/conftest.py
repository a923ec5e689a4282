"""The test run's own environment, its report header and its order."""

from __future__ import annotations

import os
import tempfile

import pytest

# No setting of the machine's user may reach a test; a test's own go to a folder that ends with the run.
for _name in [name for name in os.environ if name.startswith("APPLIANCE_")]:
    if _name != "APPLIANCE_MODELS_DIR":  # where the real model is
        del os.environ[_name]
_scratch = tempfile.TemporaryDirectory(prefix="appliance-tests-")
os.environ["APPLIANCE_STATE_DIR"] = _scratch.name


def pytest_report_header() -> list[str]:
    from importlib.metadata import version

    return [f"llama-cpp-python {version('llama-cpp-python')}, openai {version('openai')}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast ones first: those with the real model come last."""
    items.sort(key=lambda item: item.get_closest_marker("model") is not None)


def pytest_unconfigure() -> None:
    _scratch.cleanup()
