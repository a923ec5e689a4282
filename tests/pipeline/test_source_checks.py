"""What is refused before any program reads a repository's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from appliance.errors import ConfigError
from appliance.models.convert import check_source
from appliance.models.safetensors import largest_tensor_bytes

WEIGHTS = save({"small": np.zeros(3, np.float16), "large": np.zeros((10, 10), np.float32)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    return tmp_path


def test_a_plain_repository_is_accepted(folder: Path) -> None:
    check_source(folder, allow_code=False)
    assert largest_tensor_bytes(folder) == 400


@pytest.mark.parametrize("cut", [1, 100, len(WEIGHTS) - 8, len(WEIGHTS) - 7, len(WEIGHTS)])
def test_weights_that_are_cut_off_are_refused(folder: Path, cut: int) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-cut])
    with pytest.raises(ConfigError, match="cut off"):
        check_source(folder, allow_code=False)


def test_weights_that_go_on_behind_their_end_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS + b"x")
    with pytest.raises(ConfigError, match="its header says"):
        check_source(folder, allow_code=False)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a": {"data_offsets": [0, 1e999]}}',
        b"not json",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"data_offsets": 1}}',
        b'{"a": {"data_offsets": ["x", "y"]}}',
    ],
)
def test_weights_with_a_damaged_header_are_refused(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match="damaged header"):
        check_source(folder, allow_code=False)


def test_a_claimed_header_of_any_size_is_not_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConfigError, match="no safetensors file"):
        check_source(folder, allow_code=False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_conversion_might_run_wants_to_be_trusted(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"architectures": ["X"], "auto_map": {"AutoModel": "x.X"}}))
    with pytest.raises(ConfigError, match="--allow-code"):
        check_source(folder, allow_code=False)
    check_source(folder, allow_code=True)


def test_a_program_in_the_repository_wants_to_be_trusted(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "modeling.py").write_text("import os")
    with pytest.raises(ConfigError, match=r"modeling\.py is program code"):
        check_source(folder, allow_code=False)
    check_source(folder, allow_code=True)


@pytest.mark.parametrize("target", ["/etc/passwd", "model.safetensors"])
def test_links_are_refused(folder: Path, target: str) -> None:
    (folder / "tokenizer.json").symlink_to(target)
    with pytest.raises(ConfigError, match="is a link"):
        check_source(folder, allow_code=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "names no architecture"),
        ('{"architectures": []}', "names no architecture"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_configuration_that_does_not_say_what_the_model_is_is_refused(
    folder: Path, config: str, message: str
) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=message):
        check_source(folder, allow_code=False)


def test_a_missing_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="names no architecture"):
        check_source(folder, allow_code=False)
