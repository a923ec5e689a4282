"""``appliance plan`` with models of invented shapes on invented machines."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from appliance.cli import app
from appliance.engine.build import engine_build
from appliance.errors import ApplianceError, ConfigError, ModelNotFound
from appliance.hardware.estimate import RunShape
from appliance.hardware.memory_use import GIB, MIB, DeviceMemory
from appliance.models.gguf_file import read_gguf
from appliance.models.gguf_header import header_of
from appliance.models.shape import shape_of
from appliance.models.store import RECORD_SCHEMA, Record
from appliance.state.measured import MeasuredMemory
from tests.gguf_shapes import write_sparse

EIGHT_B: dict[str, Any] = {
    "n_layer": 32,
    "n_embd": 4096,
    "n_ff": 14336,
    "n_head": 32,
    "n_head_kv": 8,
    "n_vocab": 128256,
}
EXPERTS: dict[str, Any] = {
    **{"arch": "qwen3moe", "n_layer": 48, "n_embd": 2048, "n_ff": 6144, "n_head": 32, "n_head_kv": 4},
    **{"head_dim": 128, "n_vocab": 151936, "n_expert": 128, "n_expert_used": 8, "n_ff_expert": 768},
}


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = folder / "models.lock"
        self._lock.write_text("schema = 1\n")

    def publish(self, name: str, *, is_stored: bool = True, **sizes: Any) -> None:
        """A model in the lock and in the store; its weights are holes in the file."""
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        folder = self.folder / "models" / name / sha256[:12]
        folder.mkdir(parents=True)
        path = write_sparse(folder / "model.gguf", **sizes)
        file, status = read_gguf(path), path.stat()
        record = Record(
            schema=RECORD_SCHEMA,
            name=name,
            gguf_sha256=sha256,
            gguf_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            quantization="Q8_0",
            header=header_of(file, path),
            shape=shape_of(file),
        )
        if is_stored:
            (folder / "record.json").write_bytes(msgspec.json.encode(record))
        with self._lock.open("a") as lock:
            lock.write(
                f'[[models]]\nname = "{name}"\nlicense = "MIT"\n'
                '[[models.versions]]\nquantization = "Q8_0"\n'
                '[models.versions.source]\nkind = "hub"\nrepo = "us/model"\nrevision = "' + "a" * 40 + '"\n'
                f'[models.versions.gguf]\nsha256 = "{sha256}"\nsize_bytes = {status.st_size}\n'
                f'chat_template_sha256 = "{"0" * 64}"\n'
            )

    def plan(self, *arguments: str, status: int = 0) -> str:
        result = self.run(*arguments)
        assert result.exit_code == status, result.output
        return result.output

    def refused(self, *arguments: str) -> ApplianceError:
        error = self.run(*arguments).exception
        assert isinstance(error, ApplianceError), error
        return error

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.plan(*arguments, "--json", status=status))

    def run(self, *arguments: str) -> Result:
        environment = {
            "APPLIANCE_MODELS_LOCK": str(self._lock),
            "APPLIANCE_MODELS_DIR": str(self.folder / "models"),
            "APPLIANCE_STATE_DIR": str(self.folder / "state"),
        }
        return CliRunner().invoke(app, ["plan", *arguments], env=environment)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.publish("small", n_layer=4, n_embd=512, n_ff=2048, n_head=8, n_head_kv=8, n_vocab=32000)
    place.publish("eight", **EIGHT_B, n_ctx_train=131072)
    return place


def row(output: str, device: str) -> list[str]:
    return next(line for line in output.splitlines() if line.startswith(f"  {device} ")).split()


def test_a_model_is_shown_with_its_parts_on_each_device(place: Place) -> None:
    output = place.plan("eight", "--ram", "64GiB", "--gpu-memory", "24GiB")
    assert "with 64.0 GiB of RAM, 24.0 GiB on CUDA0:" in output
    assert "all 33 layers on CUDA0: they fit" in output
    device, layers, *parts = row(output, "CUDA0")
    assert (device, layers, parts[:4]) == ("CUDA0", "33", ["7.4", "GiB", "1.0", "GiB"])
    assert row(output, "RAM")[1] == "0"
    assert max(map(len, output.splitlines())) <= 80


def test_what_does_not_fit_on_a_gpu_stays_in_ram(place: Place) -> None:
    found = place.json("eight", "--ram", "64GiB", "--gpu-memory", "6GiB")["models"][0]
    ram, gpu = found["devices"]
    assert ram["layers"] + gpu["layers"] == 33
    assert 10 < gpu["layers"] < 30
    assert gpu["estimated"]["total_bytes"] <= 6 * GIB
    assert found["run"]["n_gpu_layers"] == gpu["layers"]


def test_several_gpus_are_all_shown(place: Place) -> None:
    output = place.plan("eight", "--ram", "64GiB", "--gpu-memory", "6GiB", "--gpu-memory", "6GiB")
    assert int(row(output, "CUDA0")[1]) + int(row(output, "CUDA1")[1]) == 33


def test_experts_that_stay_in_ram_are_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.publish("experts", **EXPERTS)
    output = place.plan("experts", "--ram", "64GiB", "--gpu-memory", "24GiB")
    assert "experts of the first" in output
    assert row(output, "CUDA0")[1] == "49"


def test_the_one_that_was_asked_for_first_makes_way(place: Place) -> None:
    place.publish("other", **EIGHT_B, n_ctx_train=131072)
    found = place.json("eight", "small", "other", "--ram", "12GiB", "--gpu-memory", "0")
    assert [[key.partition("@")[0] for key in step["evicted"]] for step in found["models"]] == [[], [], ["eight"]]
    assert [key.partition("@")[0] for key in found["loaded"]] == ["small", "other"]
    assert "would unload eight@" in place.plan("eight", "small", "other", "--ram", "12GiB", "--gpu-memory", "0")


def test_a_model_that_is_asked_for_again_is_there_and_is_spared(place: Place) -> None:
    place.publish("other", n_layer=8, n_embd=2048, n_ff=8192, n_head=8, n_head_kv=8, n_vocab=32000)
    arguments = ("small", "other", "small", "eight", "--ram", "9.2GiB", "--gpu-memory", "0", "--n-ctx", "2048")
    assert "is loaded already" in place.plan(*arguments)
    found = place.json(*arguments)
    assert [key.partition("@")[0] for key in found["models"][3]["evicted"]] == ["other"]


def test_a_model_that_does_not_fit_is_told_with_numbers_and_the_status(place: Place) -> None:
    output = place.plan("eight", "--ram", "4GiB", "--gpu-memory", "0", status=1)
    assert "does not fit: eight: the model, even with n_ctx=2048, wants" in " ".join(output.split())
    assert "then loaded  nothing" in output


def test_a_context_that_was_asked_for_is_not_lowered(place: Place) -> None:
    found = place.json("eight", "--ram", "16GiB", "--gpu-memory", "0", "--n-ctx", "131072", status=1)["models"][0]
    assert "n_ctx up to" in found["error"]
    assert place.json("eight", "--ram", "64GiB", "--n-ctx", "16384")["models"][0]["run"]["n_ctx"] == 16384


def test_without_options_this_machine_is_meant(place: Place) -> None:
    rooms = place.json("small")["rooms"]
    assert rooms[0]["device"] == "RAM"
    assert 0 < rooms[0]["free_bytes"] < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_was_measured_stands_beside_the_estimate(place: Place) -> None:
    run = msgspec.convert(place.json("small", "--ram", "8GiB", "--gpu-memory", "0")["models"][0]["run"], RunShape)
    sha256 = hashlib.sha256(b"small").hexdigest()
    measured = MeasuredMemory(place.folder / "state", engine_build())
    measured.put(sha256, run, {"RAM": DeviceMemory(100 * MIB, 20 * MIB, 3 * MIB, 0)})
    arguments = ("small", "--ram", "8GiB", "--gpu-memory", "0")
    assert row(place.plan(*arguments), "RAM")[-2:] == ["123", "MiB"]
    assert place.json(*arguments)["models"][0]["devices"][0]["measured"]["total_bytes"] == 123 * MIB


def test_a_model_that_is_not_stored_is_refused_with_the_remedy(place: Place) -> None:
    place.publish("absent", is_stored=False)
    error = place.refused("absent")
    assert isinstance(error, ModelNotFound)
    assert "appliance models build absent" in error.message


def test_an_unknown_model_is_refused_with_those_there_are(place: Place) -> None:
    assert "there are: small, eight" in place.refused("nonsense").message


@pytest.mark.parametrize("option", ["--ram", "--gpu-memory"])
def test_what_is_no_size_is_refused(place: Place, option: str) -> None:
    error = place.refused("small", option, "much")
    assert isinstance(error, ConfigError)
    assert error.message == f"{option}=much: want a size such as 24GiB, 512MiB or 1.5GiB"
