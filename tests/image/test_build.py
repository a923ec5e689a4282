"""What the image is made of."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.models.lock import read_lock
from tests.image.conftest import Built
from tests.image.engine import BASE_IMAGE, MODEL, docker, inspect
from tests.pipeline.hub import GOOD_TOKEN
from tests.pipeline.workplace import REPO

LIMIT_BYTES = 250_000_000


@pytest.fixture(scope="module")
def layers(appliance_image: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as `docker save` writes it, unpacked."""
    folder = tmp_path_factory.mktemp("layers")
    docker("save", appliance_image.image, "--output", folder / "image.tar")
    with tarfile.open(folder / "image.tar") as archive:
        archive.extractall(folder, filter="data")
    (folder / "image.tar").unlink()
    return folder


def layers_above_base(layers: Path) -> Iterator[Path]:
    (manifest,) = json.loads((layers / "manifest.json").read_text())
    n_of_base = len(inspect(BASE_IMAGE)["RootFS"]["Layers"])
    for name in manifest["Layers"][n_of_base:]:
        yield layers / name


def test_the_build_fetches_the_pinned_revision_with_the_token(appliance_image: Built) -> None:
    hub = appliance_image.hub
    commit = hub.repos[REPO].commit
    asked = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert f"/{REPO}/resolve/{commit}/model.safetensors" in asked
    assert all(f"/resolve/{commit}/" in path for path in asked)
    assert f"Bearer {GOOD_TOKEN}" in hub.tokens


def test_the_model_that_is_baked_in_is_the_lock_s(appliance_image: Built) -> None:
    version = read_lock(appliance_image.site / "models.lock").entry(MODEL).versions[0]
    assert version.gguf is not None
    assert version.quantization == "Q4_0"
    path = f"/opt/models/{MODEL}/{version.short}/model.gguf"
    said = docker("run", "--rm", "--entrypoint", "sha256sum", appliance_image.image, path)
    assert said.split()[0] == version.gguf.sha256


def test_the_image_lies_within_its_limit_and_models_are_a_layer_of_their_own(
    appliance_image: Built, layers: Path
) -> None:
    sizes = []
    for layer in layers_above_base(layers):
        with tarfile.open(layer) as archive:
            names = {
                member.name.split("/")[0] + "/" + member.name.partition("/")[2].split("/")[0] for member in archive
            }
            size = sum(member.size for member in archive.getmembers())
        sizes.append((size, names))
    models = [(size, names) for size, names in sizes if "opt/models" in names]
    assert len(models) == 1
    assert models[0][1] <= {"opt/", "opt/models"}
    assert sum(size for size, _ in sizes) - models[0][0] <= LIMIT_BYTES


def test_no_secret_is_in_the_history_or_in_a_layer(appliance_image: Built, layers: Path) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", appliance_image.image)
    assert GOOD_TOKEN not in history
    assert "HF_ENDPOINT" not in history
    for path in layers.rglob("*"):
        if path.is_file():
            assert GOOD_TOKEN.encode() not in path.read_bytes(), path


def test_there_is_no_compiler_no_pip_and_no_torch(appliance_image: Built) -> None:
    script = (
        "for tool in gcc g++ cc cmake pip pip3; do command -v $tool; done;"
        "find / -xdev -name 'torch' -o -xdev -name '.cache' -o -xdev -name 'wheelhouse' -o -xdev -name '*.deb';"
        'python -c \'import importlib.util as u; print([n for n in ("pip", "torch") if u.find_spec(n)])\''
    )
    said = docker("run", "--rm", "--user", "0", "--entrypoint", "sh", appliance_image.image, "-c", script)
    assert said == "[]"


def test_the_image_runs_as_a_fixed_user_and_says_whether_it_is_healthy(appliance_image: Built) -> None:
    config = inspect(appliance_image.image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"] == ["CMD", "appliance", "health"]
    assert config["Entrypoint"][0] == "tini"


def test_published_without_keys_it_does_not_start(appliance_image: Built) -> None:
    said = docker("run", "--rm", appliance_image.image, status=None)
    assert "without API keys; set APPLIANCE_API_KEYS_FILE" in said


def test_an_import_stays_when_a_newer_image_comes_with_other_models(appliance_image: Built, tmp_path: Path) -> None:
    """The volume's lock keeps what was imported; the image's models stand in front."""
    own, image = tmp_path / "own.lock", appliance_image.site / "models.lock"
    imported = image.read_text().replace(f'name = "{MODEL}"', 'name = "mine"')
    own.write_text(imported)
    tmp_path.chmod(0o777)
    mounts = ["--volume", f"{tmp_path}:/locks", "--entrypoint", "python"]
    merge = ["/opt/appliance/bin/merge_lock.py", "/opt/models/models.lock", "/locks/own.lock"]
    for _ in range(2):
        docker("run", "--rm", *mounts, appliance_image.image, *merge)
        assert [entry.name for entry in read_lock(own).models] == [MODEL, "mine"]


def test_the_same_models_are_the_same_layer(appliance_image: Built, layers: Path) -> None:
    """Nothing in it tells when or where it was built, so that a new version of the app doesn't ship it again."""
    for layer in layers_above_base(layers):
        with tarfile.open(layer) as archive:
            members = [member for member in archive if member.name.startswith("opt/models/")]
            for member in members:
                assert (member.mtime, member.uid) == (1767225600, 0), member.name
                if member.name.endswith("record.json"):
                    content = archive.extractfile(member)
                    assert content is not None
                    record = json.loads(content.read())
                    assert (record["inode"], record["mtime_ns"]) == (0, 1767225600 * 10**9)


def test_the_lock_in_the_image_has_its_models_alone(appliance_image: Built, layers: Path) -> None:
    said = docker("run", "--rm", "--entrypoint", "cat", appliance_image.image, "/opt/models/models.lock")
    assert hashlib.sha256(said.encode()).hexdigest()
    assert said.count("[[models]]") == 1
