"""What belongs to a model beside its file: chat templates of an operator's own, and projectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models.lock_file import change_lock, with_entry
from appliance.models.store import ModelStore, StoredModel
from tests.pipeline.hub import Repo, running_hub
from tests.pipeline.tiny import TEMPLATE, tiny_gguf, tiny_projector
from tests.pipeline.workplace import Workplace

OURS = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
REPO = "org/Tiny"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with running_hub() as serving:
        place = Workplace(tmp_path / "place", serving, {"APPLIANCE_CONVERTER_PYTHON": "/nonexistent"})
        serving.repos[REPO] = Repo(
            {
                "tiny-f32.gguf": tiny_gguf(tmp_path / "tiny.gguf"),
                "mmproj-f16.gguf": tiny_projector(tmp_path / "mmproj.gguf"),
                "generation_config.json": b'{"temperature": 0.6, "top_p": 0.9, "top_k": 20}',
            }
        )
        yield place


@pytest.fixture
def template(place: Workplace) -> Path:
    path = place.folder / "templates" / "ours.jinja"
    path.parent.mkdir()
    path.write_text(OURS)
    return path


def add(place: Workplace, *options: str) -> None:
    place.run("add", REPO, "--file", "tiny*.gguf", "--file", "*.json", *options)


def found(place: Workplace) -> StoredModel:
    stored = ModelStore(place.models).find(place.lock.entry("tiny"))
    assert stored is not None
    return stored


def state(place: Workplace) -> list[str]:
    return [row["state"] for row in json.loads(place.run("ls", "--json"))]


def beside(place: Workplace) -> list[str]:
    (folder,) = place.models.glob("tiny/*")
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def test_a_template_of_one_s_own_takes_the_place_of_the_model_s(place: Workplace, template: Path) -> None:
    add(place, "--chat-template", str(template))
    pinned = place.lock.entry("tiny").versions[0].chat_template
    assert pinned is not None
    assert (pinned.path, pinned.sha256) == ("templates/ours.jinja", hashlib.sha256(OURS.encode()).hexdigest())
    place.run("build", "tiny")
    assert beside(place) == ["chat_template", "model.gguf", "record.json"]
    assert found(place).chat_template == OURS
    assert found(place).record.header.chat_template == TEMPLATE
    template.unlink()
    assert found(place).chat_template == OURS, "the store holds all that serving needs"


def test_a_template_is_set_on_a_model_that_is_built_without_making_it_again(place: Workplace, template: Path) -> None:
    add(place)
    place.run("build", "tiny")
    assert found(place).chat_template == TEMPLATE
    built = place.lock.entry("tiny").versions[0]
    n_requests = len(place.hub.requests)
    (folder,) = place.models.glob("tiny/*")
    inode = (folder / "model.gguf").stat().st_ino
    add(place, "--chat-template", str(template))
    assert found(place).chat_template == OURS, "a running server may follow the lock"
    assert msgspec.structs.replace(place.lock.entry("tiny").versions[0], chat_template=None) == built
    assert "is there already" in place.run("build", "tiny")
    (copy,) = place.models.glob("tiny/*/chat_template-*")
    copy.unlink()
    assert state(place) == ["incomplete"]
    assert "templates/ours.jinja was pinned and not published yet" in place.run("verify", "tiny", status=1)
    with pytest.raises(ConfigError, match=r"tiny@\w+: its chat template templates/ours.jinja was pinned and not"):
        found(place)
    place.run("build", "tiny")
    assert (folder / "model.gguf").stat().st_ino == inode
    assert [path for _, path, _ in place.hub.requests[n_requests:]] == [f"/api/models/{REPO}/revision/main"]
    assert found(place).chat_template == OURS
    assert state(place) == ["stored"]


def test_a_template_that_was_edited_is_not_served_until_it_is_pinned_again(place: Workplace, template: Path) -> None:
    add(place, "--chat-template", str(template))
    place.run("build", "tiny")
    template.write_text("edited")
    assert found(place).chat_template == OURS
    add(place, "--chat-template", str(template))
    assert found(place).chat_template == "edited"
    said = place.run("gc", "--yes", "--keep-sources")
    assert said.count("chat_template-") == 1, "the old one"
    assert found(place).chat_template == "edited"
    assert beside(place) == ["chat_template", "model.gguf", "record.json"]


def test_other_bytes_than_the_lock_s_are_refused_with_both_hashes(place: Workplace, template: Path) -> None:
    add(place, "--chat-template", str(template))
    template.write_text("edited")
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ("edited", OURS)]
    said = place.run("build", "tiny", status=1)
    assert f"{template} has sha256 {hashes[0]}, models.lock says {hashes[1]}; bring the old one back, or pin" in said
    assert place.published() == {}
    template.write_text(OURS)
    place.run("build", "tiny")
    (copy,) = place.models.glob("tiny/*/chat_template-*")
    copy.write_text("edited")
    with pytest.raises(ConfigError, match=f"has sha256 {hashes[0]}, models.lock says {hashes[1]}; it is not used"):
        found(place)
    assert state(place) == ["damaged"]
    copy.unlink()
    place.run("build", "tiny")
    assert found(place).chat_template == OURS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{% for %}", "is no valid Jinja"),
        (b"\xff", "is no text in UTF-8"),
        (b"", "want 1 to 1048576"),
        (b"x" * (2 << 20), "want 1 to 1048576"),
        (None, "No such file"),
    ],
)
def test_what_is_no_template_is_not_pinned(
    place: Workplace, template: Path, content: bytes | None, message: str
) -> None:
    template.unlink() if content is None else template.write_bytes(content)
    assert message in place.run("add", REPO, "--chat-template", str(template), status=1)
    assert place.hub.requests == []
    assert place.lock.models == ()


def test_a_template_elsewhere_is_not_taken(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_text(OURS)
    said = place.run("add", REPO, "--chat-template", str(tmp_path / "x.jinja"), status=1)
    assert f"want a file in {place.folder} or below" in said


def test_an_imported_file_is_served_with_a_template_too(place: Workplace, template: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    place.run("import", str(path))
    place.run("import", str(path), "--chat-template", str(template))
    (version,) = place.lock.entry("tiny").versions
    assert version.chat_template is not None
    assert found(place).chat_template == OURS
    place.run("import", str(path))
    assert place.lock.entry("tiny").versions == (version,), "what was said once stays"


def test_a_projector_is_pinned_fetched_checked_and_published(place: Workplace) -> None:
    add(place, "--projector", "mmproj*")
    (version,) = place.lock.entry("tiny").versions
    content = place.hub.repos[REPO].files["mmproj-f16.gguf"]
    assert version.projector is not None
    assert (version.projector.path, version.projector.size_bytes) == ("mmproj-f16.gguf", len(content))
    assert version.projector.sha256 == hashlib.sha256(content).hexdigest()
    place.run("fetch", "tiny")
    place.hub.url = "http://127.0.0.1:9"
    place.run("build", "tiny")
    (path,) = place.models.glob("tiny/*/mmproj-*.gguf")
    assert path.read_bytes() == content
    assert "is there already" in place.run("build", "tiny")
    assert place.run("verify", "--deep").endswith(": ok\n")
    path.unlink()  # it may be linked
    assert state(place) == ["incomplete"]
    assert "it is incomplete; build it with: appliance models build tiny" in place.run("verify", "tiny", status=1)
    path.write_bytes(content[:-1] + b"x")
    assert "the projector, has sha256" in place.run("verify", "--deep", status=1)


def test_a_projector_is_added_to_a_model_that_took_it_for_a_part_of_itself(place: Workplace) -> None:
    place.run("add", REPO, "--file", "*.gguf", "--quant", "F32")
    assert "names several GGUF files: mmproj-f16.gguf, tiny-f32.gguf" in place.run("build", "tiny", status=1)
    place.run("add", REPO, "--file", "*.gguf", "--quant", "F32", "--projector", "mmproj*")
    place.run("build", "tiny")
    assert beside(place) == ["mmproj", "model.gguf", "record.json"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.gguf", "has 2 such files, want one; there are: mmproj-f16.gguf, tiny-f32.gguf"),
        ("x*", "has 0 such files, want one; there are: mmproj-f16.gguf, tiny-f32.gguf"),
    ],
)
def test_a_projector_is_one_file(place: Workplace, pattern: str, message: str) -> None:
    said = place.run("add", REPO, "--file", "tiny*.gguf", "--projector", pattern, status=1)
    assert message in said


def test_what_is_no_projector_is_not_published(place: Workplace) -> None:
    repo = place.hub.repos[REPO]
    repo.files["mmproj-f16.gguf"] = repo.files["tiny-f32.gguf"]
    add(place, "--projector", "mmproj*")
    assert "mmproj-f16.gguf is no projector" in place.run("build", "tiny", status=1)
    assert place.published() == {}


def test_an_upgrade_takes_over_what_an_operator_set(place: Workplace, template: Path, tmp_path: Path) -> None:
    add(place, "--projector", "mmproj*", "--chat-template", str(template))
    place.run("build", "tiny")
    entry = place.lock.entry("tiny")
    (old,) = entry.versions
    assert old.defaults == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    # One is changed by hand, one removed, one added.
    mine = msgspec.structs.replace(old, defaults={"temperature": 0.1, "top_k": 20, "min_p": 0.05})
    entry = msgspec.structs.replace(entry, versions=(mine,))
    change_lock(place.lock_path, lambda lock: with_entry(lock, entry))
    files = place.hub.repos[REPO].files
    files["generation_config.json"] = b'{"temperature": 0.7, "top_p": 0.8, "top_k": 40}'
    files["tiny-f32.gguf"] = tiny_gguf(tmp_path / "newer.gguf", name="newer")
    said = place.run_json("upgrade", "tiny")
    new, kept = place.lock.entry("tiny").versions
    assert (said["upgraded"], said["version"], said["before"]["version"]) == (True, new.short, old.short)
    assert kept == mine
    assert new.defaults == {"temperature": 0.1, "top_k": 40, "min_p": 0.05}
    assert (new.chat_template, new.projector) == (old.chat_template, old.projector)
    assert found(place).chat_template == OURS
    assert place.run_json("upgrade", "tiny") == {"name": "tiny", "version": new.short, "upgraded": False}


def test_an_upgrade_whose_old_commit_is_gone_drops_nothing(place: Workplace, tmp_path: Path) -> None:
    add(place)
    entry = place.lock.entry("tiny")
    mine = msgspec.structs.replace(entry.versions[0], defaults={"temperature": 0.1})
    entry = msgspec.structs.replace(entry, versions=(mine,))
    change_lock(place.lock_path, lambda lock: with_entry(lock, entry))
    place.run("gc", "--yes")
    files = place.hub.repos[REPO].files
    files["generation_config.json"] = b'{"temperature": 0.7, "top_p": 0.8}'
    place.run("upgrade", "tiny")
    assert place.lock.entry("tiny").versions[0].defaults == {"temperature": 0.1, "top_p": 0.8}


def test_what_commands_did_is_one_document(place: Workplace, template: Path, tmp_path: Path) -> None:
    added = place.run_json("add", REPO, "--file", "tiny*.gguf", "--chat-template", str(template))
    revision = place.hub.repos[REPO].commit
    assert (added["name"], added["revision"], added["quantization"]) == ("tiny", revision, "F32")
    assert (added["n_files"], added["changed"]) == (1, True)
    (fetched,) = place.run_json("fetch", "tiny")
    assert (fetched["state"], Path(fetched["path"]).is_dir()) == ("fetched", True)
    (built,) = place.run_json("build", "tiny")
    assert (built["built"], built["quality"], Path(built["path"]).is_file()) == (True, None, True)
    assert not place.run_json("build", "tiny")[0]["built"]
    assert place.run_json("fetch", "tiny")[0]["state"] == "stored"
    other = tmp_path / "other.gguf"
    tiny_gguf(other, name="other")
    imported = place.run_json("import", str(other), "--name", "tiny")
    assert (imported["name"], imported["changed"]) == ("tiny", True)
    version = built["version"]
    assert place.run_json("use", f"tiny@{version}") == {
        "name": "tiny",
        "version": version,
        "before": imported["version"],
    }
    assert place.run_json("rm", f"tiny@{imported['version']}", "--yes") == {
        "deleted": [{"name": "tiny", "version": imported["version"]}]
    }
    (place.models / ".work" / "made" / "x.gguf").write_bytes(b"x" * 1000)
    freed = place.run_json("gc", "--yes")
    assert freed["size_bytes"] == sum(row["size_bytes"] for row in freed["freed"]) >= 1000
    assert place.run_json("gc") == {"size_bytes": 0, "freed": []}
