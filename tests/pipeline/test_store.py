"""Published models on disk, with generated GGUF files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models.store import ModelStore
from tests.pipeline.tiny import TEMPLATE, entry_for, files_in, published, sha_of, tiny_gguf


@pytest.fixture
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf(tmp_path_factory.mktemp("content") / "content.gguf")


def test_the_record_holds_what_the_gateway_needs(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    stored = published(ModelStore(tmp_path), entry, content, tmp_path)
    header = stored.record.header
    assert (header.architecture, header.n_ctx_train, header.tensor_types) == ("llama", 128, ("F32",))
    assert (header.chat_template, header.eos_token) == (TEMPLATE, "<|end|>")
    assert header.control_tokens == ("<unk>", "<|end|>")
    assert stored.note == "small"


def test_a_file_with_other_bytes_is_refused_with_both_hashes_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    with pytest.raises(ConfigError) as caught:
        published(ModelStore(tmp_path), entry, content + b"x", tmp_path)
    assert sha_of(entry.versions[0]) in caught.value.message
    assert hashlib.sha256(content + b"x").hexdigest() in caught.value.message
    assert files_in(tmp_path) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    entry = entry_for(b"no model")
    with pytest.raises(ConfigError, match="no readable GGUF"):
        published(ModelStore(tmp_path), entry, b"no model", tmp_path)
    assert files_in(tmp_path) == []


def test_another_chat_template_than_the_lock_s_is_refused(tmp_path: Path) -> None:
    content = tiny_gguf(tmp_path / "other.gguf", template="other")
    entry = entry_for(content)
    with pytest.raises(ConfigError, match="its chat template has sha256"):
        published(ModelStore(tmp_path / "models"), entry, content, tmp_path)


def test_an_interrupted_publication_is_not_there(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError(5, "the disk is gone")

    entry = entry_for(content)
    store = ModelStore(tmp_path)
    monkeypatch.setattr("appliance.files.os.replace", gone)
    with pytest.raises(ConfigError, match="can't be written: the disk is gone"):
        published(store, entry, content, tmp_path)
    assert store.find(entry) is None
    assert files_in(tmp_path) == []


def test_a_file_is_linked_or_copied_where_links_are_not_to_be_had(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_for(content)
    stored = published(ModelStore(tmp_path / "a"), entry, content, tmp_path)
    assert stored.path.stat().st_nlink == 2

    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("appliance.models.store.os.link", no_links)
    copied = published(ModelStore(tmp_path / "b"), entry, content, tmp_path)
    assert copied.path.stat().st_nlink == 1
    assert copied.path.read_bytes() == content


def test_the_image_s_folder_is_searched_first_and_never_written(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    in_image = published(ModelStore(tmp_path / "image"), entry, content, tmp_path)
    store = ModelStore(tmp_path / "models", tmp_path / "image")
    assert store.find(entry) == in_image
    published(store, entry, content, tmp_path)
    assert store.find(entry) == in_image
    store.unpublish(entry.name, sha_of(entry.versions[0]))
    assert store.find(entry) == in_image
    assert files_in(tmp_path / "models") == []


def test_the_version_that_was_chosen_is_found_before_the_newest(tmp_path: Path, content: bytes) -> None:
    newer = tiny_gguf(tmp_path / "newer.gguf", name="newer")
    both = msgspec.structs.replace(
        entry_for(content), versions=(entry_for(newer).versions[0], entry_for(content).versions[0])
    )
    store = ModelStore(tmp_path / "models")
    published(store, both, newer, tmp_path)
    published(store, both, content, tmp_path, 1)
    for version in both.versions:
        found = store.find(both, sha_of(version))
        assert found is not None
        assert found.record.gguf_sha256 == sha_of(version)
    found = store.find(both, "f" * 64)
    assert found is not None
    assert found.record.gguf_sha256 == sha_of(both.versions[0])


def test_a_deep_check_reads_bytes_that_look_untouched(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path / "models")
    stored = published(store, entry, content, tmp_path)
    stamp = stored.path.stat()
    n_read: list[int] = []
    assert store.verify(entry, entry.versions[0], n_read.append) == stored
    assert sum(n_read) == len(content)
    with stored.path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(stored.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert store.find(entry) == stored
    with pytest.raises(ConfigError, match="it is not served"):
        store.verify(entry, entry.versions[0], n_read.append)


def test_a_file_that_changed_on_disk_is_not_served(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    path = published(store, entry, content, tmp_path).path
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="it is not served"):
        store.find(entry)


def test_a_file_that_was_only_touched_is_checked_once(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    stored = published(store, entry, content, tmp_path)
    os.utime(stored.path, ns=(1, 1))
    found = store.find(entry)
    assert found is not None
    assert found.record == msgspec.structs.replace(stored.record, mtime_ns=1)
    assert (stored.path.parent / "record.json").read_bytes().count(b'"mtime_ns": 1,') == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema": 1}'])
def test_a_damaged_record_is_made_again_from_the_file(tmp_path: Path, content: bytes, damage: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    stored = published(store, entry, content, tmp_path)
    (stored.path.parent / "record.json").write_bytes(damage)
    assert store.find(entry) == stored
    assert (stored.path.parent / "record.json").stat().st_size > 100


def test_a_copy_that_can_not_be_written_to_is_served(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    stored = published(store, entry, content, tmp_path)
    os.utime(stored.path, ns=(1, 1))

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("appliance.files.os.replace", read_only)
    found = store.find(entry)
    assert found is not None
    assert len(files_in(tmp_path)) == 2
    # It was hashed, and isn't again: a server looks at each model whenever the lock has changed.
    monkeypatch.setattr("appliance.models.store.sha256_of", lambda *_: pytest.fail("hashed once more"))
    assert store.find(entry) == found


def test_an_image_s_file_is_not_hashed_whatever_its_inode(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_for(content)
    stored = published(ModelStore(tmp_path / "image"), entry, content, tmp_path)
    of_image = msgspec.structs.replace(stored.record, inode=0)
    (stored.path.parent / "record.json").write_bytes(msgspec.json.encode(of_image))
    store = ModelStore(tmp_path / "own", tmp_path / "image")
    with monkeypatch.context() as patched:
        patched.setattr("appliance.models.store.sha256_of", lambda *_: pytest.fail("hashed"))
        found = store.find(entry)
        assert found is not None
        assert found.record == of_image
    os.utime(stored.path, ns=(1, 1))
    stored.path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="it is not served"):
        store.find(entry)


def test_a_model_file_that_is_gone_names_its_path(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    path = published(store, entry, content, tmp_path).path
    path.unlink()
    with pytest.raises(ConfigError, match="fetch the model again"):
        store.find(entry)


def test_an_older_version_is_served_until_the_newest_is_there_which_is_what_fetch_fetches(
    tmp_path: Path, content: bytes
) -> None:
    old = entry_for(content)
    newer = tiny_gguf(tmp_path / "newer.gguf", name="newer")
    both = msgspec.structs.replace(old, versions=(entry_for(newer).versions[0], old.versions[0]))
    store = ModelStore(tmp_path / "models")
    published(store, both, content, tmp_path, 1)
    assert store.find_version(both, both.versions[0]) is None
    found = store.find(both)
    assert found is not None
    assert found.record.gguf_sha256 == sha_of(old.versions[0])
    published(store, both, newer, tmp_path)
    newest = store.find(both)
    assert newest is not None
    assert newest.record.gguf_sha256 == sha_of(both.versions[0])


def test_a_control_token_counts_whatever_type_the_file_gives_it(tmp_path: Path) -> None:
    content = tiny_gguf(tmp_path / "t.gguf", types=[1, 1, 1, 1])
    entry = entry_for(content)
    stored = published(ModelStore(tmp_path / "models"), entry, content, tmp_path)
    assert stored.record.header.control_tokens == ("<unk>", "<|end|>")
