"""Commands over small files of one's own: what they must not delete, publish or forget."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models.lock import Entry, Lock, PyPISource, Version
from appliance.models.lock_file import change_lock, with_entry
from appliance.state.current import CurrentVersions
from tests.pipeline.hub import Repo, running_hub
from tests.pipeline.tiny import tiny_gguf
from tests.pipeline.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with running_hub() as serving:
        yield Workplace(tmp_path / "place", serving)


def file(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(tiny_gguf(tmp_path / "scratch.gguf", name=name))
    return path


def state(place: Workplace, name: str) -> list[str]:
    return [row["state"] for row in json.loads(place.run("ls", "--json")) if row["name"] == name]


def test_a_copy_beside_a_model_is_neither_garbage_nor_does_gc_take_the_model(place: Workplace, tmp_path: Path) -> None:
    place.run("import", str(file(tmp_path, "a")))
    (folder,) = (place.models / "a").iterdir()
    (folder.parent / f"{folder.name}.bak").mkdir()
    (folder.parent / f"{folder.name}.bak" / "model.gguf").write_bytes(b"x" * 10_000)
    assert place.run("gc", "--yes") == "nothing to free\n"
    assert state(place, "a") == ["stored"]


def test_a_file_that_is_linked_counts_where_it_is_freed(place: Workplace, tmp_path: Path) -> None:
    path = file(tmp_path, "a")
    size = path.stat().st_size
    place.run("import", str(path))
    (folder,) = (place.models / "a").iterdir()
    os.link(path, place.models / ".work" / "made" / "x.gguf")
    path.unlink()
    assert place.run("gc", "--yes") == "nothing to free\n", "it would free nothing"
    place.lock_path.write_text("schema = 1\n")
    os.truncate(folder / "model.gguf", 3_000_000)
    assert place.run("gc", "--yes").endswith("freed 3.0 MB\n")
    assert size < 3_000_000
    assert not folder.exists()


def test_what_a_killed_copy_left_beside_a_model_is_freed(place: Workplace, tmp_path: Path) -> None:
    place.run("import", str(file(tmp_path, "a")))
    (folder,) = (place.models / "a").iterdir()
    (folder / "model.gguf.1.part").write_bytes(b"x")
    (place.models / ".work" / "scratch-x").mkdir()
    place.run("gc", "--yes")
    assert sorted(path.name for path in folder.iterdir()) == ["model.gguf", "record.json"]
    assert not (place.models / ".work" / "scratch-x").exists()


@pytest.mark.parametrize("name", ["../../evil", "A B", "taken", ""])
def test_a_name_that_can_not_be_is_refused_before_anything_is_published(
    place: Workplace, tmp_path: Path, name: str
) -> None:
    taken = Entry("other", "MIT", (Version(PyPISource("p", "1", "0" * 64, "m"), "F16"),), aliases=("taken",))
    change_lock(place.lock_path, lambda lock: with_entry(lock, taken))
    path = file(tmp_path, "___")
    options = ["--name", name] if name else []
    place.run("import", str(path), *options, status=1)
    assert not list(place.folder.rglob("model.gguf"))
    assert not list(tmp_path.glob("evil*"))


def test_a_link_is_followed_and_its_file_published(place: Workplace, tmp_path: Path) -> None:
    path = file(tmp_path, "a")
    link = tmp_path / "snapshots" / "b.gguf"
    link.parent.mkdir()
    link.symlink_to("../a.gguf")
    place.run("import", str(link))
    content = path.read_bytes()
    path.unlink()
    assert list(place.published().values()) == [content]


def test_a_part_of_a_model_is_no_model(place: Workplace, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_context_length(128)
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    said = place.run("import", str(tmp_path / "part.gguf"), status=1)
    assert "is one of 2 parts of a model" in said


def test_the_version_that_is_newest_can_be_chosen_and_stays_chosen(place: Workplace, tmp_path: Path) -> None:
    place.run("import", str(file(tmp_path, "a")), "--name", "m")
    (short,) = (row["version"] for row in json.loads(place.run("ls", "--json")))
    place.run("use", f"m@{short}")
    place.run("import", str(file(tmp_path, "b")), "--name", "m")
    (chosen,) = (row["version"] for row in json.loads(place.run("ls", "--json")) if row["current"])
    assert chosen == short


def test_two_file_types_of_a_repository_are_two_versions(place: Workplace, tmp_path: Path) -> None:
    contents = {f"m-{kind}.gguf": file(tmp_path, kind).read_bytes() for kind in ("f32", "bf16")}
    place.hub.repos["org/M"] = Repo(contents)
    place.run("add", "org/M", "--file", "*f32.gguf")
    first = place.lock.entry("m").versions[0]
    place.run("add", "org/M", "--file", "*bf16.gguf")
    newer, older = place.lock.entry("m").versions
    assert older == first
    assert (newer.quantization, older.quantization) == ("BF16", "F32")


@pytest.mark.parametrize("sha", ["../../../../outside", "main", "A" * 40])
def test_a_hub_that_makes_up_commits_writes_nothing(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, sha: str
) -> None:
    monkeypatch.setattr(Repo, "commit", sha)
    place.hub.repos["org/M"] = Repo({"config.json": b"{}", "model.safetensors": b"x"})
    assert "a commit of org/M; it is none" in place.run("add", "org/M", status=1)
    assert not list(place.folder.rglob("config.json"))


@pytest.mark.parametrize("field", ["package", "version"])
def test_a_lock_can_not_make_pip_install_from_elsewhere(place: Workplace, field: str) -> None:
    source = msgspec.structs.replace(PyPISource("p", "1", "0" * 64, "m"), **{field: "evil @ file:///tmp/x --hash=y #"})
    entry = Entry("evil", "MIT", (Version(source, "F16"),))
    with pytest.raises(ConfigError, match=field):
        change_lock(place.lock_path, lambda lock: with_entry(lock, entry))


def test_revisions_with_the_same_file_are_one_model_until_both_are_gone(place: Workplace, tmp_path: Path) -> None:
    content = file(tmp_path, "a").read_bytes()
    repo = place.hub.repos["org/M"] = Repo({"m-f32.gguf": content, "extra.json": b"1"})
    place.more["APPLIANCE_CONVERTER_PYTHON"] = "/nonexistent"
    for number in range(2):
        repo.files["extra.json"] = str(number).encode()
        place.run("add", "org/M", "--file", "*.gguf", "--file", "*.json", "--quant", "F32", "--name", "m")
    lock = place.lock
    gguf = place_gguf(content)
    versions = tuple(msgspec.structs.replace(version, gguf=gguf) for version in lock.entry("m").versions)
    entry = msgspec.structs.replace(lock.entry("m"), versions=versions)
    change_lock(place.lock_path, lambda lock: with_entry(lock, entry))
    from appliance.models.store import ModelStore

    ModelStore(place.models).publish(entry, versions[0], tmp_path / "a.gguf")
    assert state(place, "m") == ["stored", "stored"]
    place.run("use", f"m@{versions[0].short}")
    place.run("rm", f"m@{versions[1].source.revision}", "--yes")  # type: ignore[union-attr]
    assert state(place, "m") == ["stored"]


def place_gguf(content: bytes) -> object:
    from tests.pipeline.tiny import entry_for

    return entry_for(content).versions[0].gguf


def test_a_lock_that_was_changed_meanwhile_is_not_overwritten(place: Workplace) -> None:
    seen = place.lock
    entry = Entry("mine", "MIT", (Version(PyPISource("p", "1", "0" * 64, "m"), "F16"),))
    change_lock(place.lock_path, lambda lock: with_entry(lock, entry))
    with pytest.raises(ConfigError, match="was changed meanwhile"):
        change_lock(place.lock_path, lambda lock: Lock(1), seen=seen)
    assert place.lock.models == (entry,)


def test_two_locks_differ_in_more_than_versions(place: Workplace, tmp_path: Path) -> None:
    place.run("import", str(file(tmp_path, "a")))
    other = tmp_path / "other.lock"
    other.write_text(place.lock_path.read_text().replace('license = "unknown"', 'license = "MIT"'))
    said = place.run("diff", str(place.lock_path), str(other), status=1)
    assert said.splitlines() == ["- a.license = unknown", "+ a.license = MIT"]
    assert place.run("diff", str(other), str(other)) == "no difference\n"


def test_a_state_folder_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    versions = CurrentVersions.__new__(CurrentVersions)
    versions._path, versions._choices = tmp_path / "file" / "state" / "current.json", {}
    with pytest.raises(ConfigError, match="APPLIANCE_STATE_DIR"):
        versions.choose("m", "0" * 64, instead_of=None)


def test_nothing_is_imported_from_the_folder_that_a_command_runs_in(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.models.report import Silent
    from appliance.models.subprocesses import run_llama_job

    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path)
    request = {
        "source": str(tmp_path / "none.gguf"),
        "target": os.devnull,
        "file_type": "Q8_0",
        "tensor_types": {},
        "imatrix": None,
        "allow_requantize": False,
        "n_threads": 1,
    }
    with pytest.raises(ConfigError, match="can't write .* as Q8_0"):
        run_llama_job("quantize", request, "quantizing", Silent())
