"""The scripts around images, as far as they need no Docker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from appliance.models.lock import Entry, Gguf, Lock, PyPISource, Version

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(name: str, *versions: str) -> Entry:
    source = PyPISource(package="p", version="1", wheel_sha256="a" * 64, member="m.gguf")
    ggufs = [Gguf(sha256=digit * 64, size_bytes=1, chat_template_sha256="0" * 64) for digit in versions]
    made = tuple(Version(source=source, quantization="Q4_0", gguf=gguf) for gguf in ggufs)
    return Entry(name=name, license="MIT", versions=made)


def test_an_image_s_models_come_before_those_of_the_volume() -> None:
    merged = script("merge_lock").merged
    image = Lock(schema=1, models=(entry("a", "2"), entry("b", "3")))
    own = Lock(schema=1, models=(entry("mine", "4"), entry("a", "1", "2")))
    found = merged(image, own)
    assert [(e.name, [v.short[0] for v in e.versions]) for e in found.models] == [
        ("a", ["2", "1"]),
        ("b", ["3"]),
        ("mine", ["4"]),
    ]
    assert merged(image, found) == found


LOCK = """
schema = 1
[[models]]
name = "packaged"
[[models.versions]]
quantization = "Q4_1"
[[models]]
name = "converted"
[[models.versions]]
quantization = "Q4_0"
[models.versions.conversion]
outtype = "f16"
"""


@pytest.mark.parametrize(
    ("names", "status"), [([], 1), (["packaged"], 1), (["converted"], 0), (["packaged", "converted@abc"], 0)]
)
def test_torch_is_wanted_only_where_something_is_converted(tmp_path: Path, names: list[str], status: int) -> None:
    path = tmp_path / "models.lock"
    path.write_text(LOCK)
    command = [sys.executable, ROOT / "docker" / "needs_converter.py", path, *names]
    assert subprocess.run(command).returncode == status


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which `scripts/build_image.sh` calls a docker that says what it was called with."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "build_image.sh").write_bytes((ROOT / "scripts" / "build_image.sh").read_bytes())
    docker = tmp_path / "docker-that-tells"
    docker.write_text(
        "#!/bin/sh\n"
        'printf "%s\\n" "BUILDKIT=$DOCKER_BUILDKIT" "$@"\n'
        'for word in "$@"; do case $word in id=hf_token,src=*) cat "${word#id=hf_token,src=}"; echo;; esac; done\n'
    )
    docker.chmod(0o755)
    return tmp_path


def build(checkout: Path, **environment: str) -> list[str]:
    settings = {"PATH": os.environ["PATH"], "DOCKER": str(checkout / "docker-that-tells"), **environment}
    command = ["sh", "scripts/build_image.sh", "runtime-cpu", "it:1"]
    done = subprocess.run(command, cwd=checkout, env=settings, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_build_is_pinned_and_given_nothing_that_was_not_set(checkout: Path) -> None:
    said = build(checkout)
    assert said[:8] == [
        "BUILDKIT=1",
        "build",
        "--file",
        "docker/Dockerfile",
        "--target",
        "runtime-cpu",
        "--tag",
        "it:1",
    ]
    assert said[8] == "--build-arg"
    assert said[9].startswith("BASE_IMAGE=debian:bookworm-slim@sha256:")
    assert said[10:] == ["."]


def test_settings_of_a_build_come_from_the_environment_then_from_the_file(checkout: Path) -> None:
    (checkout / ".env").write_text("MODELS=a b\nHF_ENDPOINT=http://hub\n#APT_MIRROR=http://commented\nMODELS_OTHER=x\n")
    said = build(checkout, HF_ENDPOINT="http://mirror", BUILD_NETWORK="host")
    assert "MODELS=a b" in said
    assert "HF_ENDPOINT=http://mirror" in said
    assert not any(word.startswith("APT_MIRROR") for word in said)
    assert said[said.index("--network") + 1] == "host"


def test_the_hub_s_token_is_a_secret_and_no_argument(checkout: Path) -> None:
    said = build(checkout, HF_TOKEN="hf_secret", BUILD_CA="/ca.pem")
    assert said[-1] == "hf_secret"
    (token,) = [word for word in said if word.startswith("id=hf_token,src=")]
    assert "id=ca,src=/ca.pem" in said
    assert [word for word in said if "hf_secret" in word] == ["hf_secret"]
    assert not Path(token.removeprefix("id=hf_token,src=")).exists()
