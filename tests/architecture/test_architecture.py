"""What the layers promise, checked on the running program and on the files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400

GATEWAY = "appliance.cli, appliance.api.app, appliance.api.server, appliance.supervisor.supervisor"


def loaded_by(imports: str) -> set[str]:
    """The modules that are loaded in a fresh Python after ``import imports``."""
    code = f"import {imports}, sys; sys.stdout.write('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_gateway_does_not_load_llama_cpp_or_numpy() -> None:
    assert not {"llama_cpp", "numpy", "gguf"} & loaded_by(GATEWAY)


def test_an_engine_loads_no_web_framework() -> None:
    loaded = loaded_by("appliance.engine.llama.backend, appliance.engine.runner")
    assert "llama_cpp.llama_cpp" in loaded
    assert not {"fastapi", "pydantic", "uvicorn", "httpx", "llama_cpp.llama"} & loaded


def test_the_command_line_starts_without_a_web_framework() -> None:
    assert not {"fastapi", "uvicorn", "pydantic", "httpx", "msgspec"} & loaded_by("appliance.cli")


@pytest.mark.parametrize("folder", ["appliance", "tui", "tests", "scripts"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_lock_file_names_an_index() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text(), path.name


def test_every_requirement_is_pinned_by_hash() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and line[0] not in " #-"]
        assert lines
        for line in lines:
            assert "==" in line, f"{path.name}: {line}"
            assert line.endswith("\\"), f"{path.name}: {line} has no hash"
