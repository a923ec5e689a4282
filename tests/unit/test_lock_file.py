"""models.lock as it is written: comments and order stay, only what changed is touched."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError, ModelNotFound
from appliance.models.lock import (
    Conversion,
    Entry,
    FileSource,
    Gguf,
    HubSource,
    Lock,
    PyPISource,
    Quality,
    SourceFile,
    TemplateFile,
    Version,
    read_lock,
)
from appliance.models.lock_file import change_lock, with_entry, without

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "models.lock").read_text()
REVISION = "5a149550068a1eb93398160d8953f5f56c3603e9"
GGUF = Gguf("ab" * 32, 123, "cd" * 32, n_ctx_train=4096, n_params=10)


def hub_version(n_files: int = 2) -> Version:
    files = tuple(SourceFile(f"model-{number}.safetensors", f"{number:064x}", 10 + number) for number in range(n_files))
    return Version(HubSource("org/model", REVISION, files=files), "Q4_0")


FULL = Version(
    source=HubSource(
        "org/model", REVISION, gated=True, allow_patterns=("*.json",), files=(SourceFile("a/b", "0" * 64, 0),)
    ),
    quantization="Q4_0",
    license_sha256="1" * 64,
    conversion=Conversion("0.3.36", "2" * 64, "bf16"),
    imatrix_sha256="3" * 64,
    tensor_types={"output": "Q8_0"},
    gguf=GGUF,
    quality=Quality("4" * 64, 1024, 12.5, 12.0, 0.01, 0.9),
    defaults={"temperature": 0.7, "top_k": 40},
    chat_template=TemplateFile("templates/mine.jinja", "6" * 64),
    projector=SourceFile("mmproj.gguf", "7" * 64, 1),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "models.lock"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    "version",
    [
        FULL,
        hub_version(0),
        Version(FileSource("my model.gguf"), "Q8_0", gguf=GGUF),
        Version(PyPISource("package", "1.0", "5" * 64, "member"), "F16"),
    ],
)
def test_what_is_written_is_what_is_read(path: Path, version: Version) -> None:
    entry = Entry("mine", "MIT", (version,), aliases=("gpt-4o-mini",), description='a "quoted" one', note="über")
    after = change_lock(path, lambda lock: with_entry(lock, entry))
    assert read_lock(path) == after
    assert after.models[-1] == entry
    assert path.read_text().startswith(TEXT), "what was there has not been touched"


def test_no_change_writes_nothing(path: Path) -> None:
    before = path.stat()
    change_lock(path, lambda lock: lock)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_what_becomes_known_is_filled_in_and_comments_stay(path: Path) -> None:
    def fill(lock: Lock) -> Lock:
        entry = lock.entry("phi-4-mini-instruct")
        version = entry.versions[0]
        assert isinstance(version.source, HubSource)
        source = msgspec.structs.replace(version.source, files=hub_version().source.files)  # type: ignore[union-attr]
        done = msgspec.structs.replace(FULL, source=source)
        return with_entry(lock, msgspec.structs.replace(entry, versions=(done,)))

    after = change_lock(path, fill)
    text = path.read_text()
    assert read_lock(path) == after
    assert [line for line in TEXT.splitlines() if line not in text.splitlines()] == []
    assert '\n    {path = "model-0.safetensors"' in text, "a line for each file"
    assert text[: text.index('[[models]]\nname = "phi')] == TEXT[: TEXT.index('[[models]]\nname = "phi')]
    assert text.endswith(TEXT[TEXT.index("# Not pinned yet, not even") :])


def test_versions_are_put_before_and_taken_out_again(path: Path) -> None:
    entry = Entry("mine", "MIT", (hub_version(1),))
    change_lock(path, lambda lock: with_entry(lock, entry))
    one = path.read_text()
    newer = msgspec.structs.replace(entry, versions=(FULL, *entry.versions))
    change_lock(path, lambda lock: with_entry(lock, newer))
    assert read_lock(path).entry("mine").versions == newer.versions
    change_lock(path, lambda lock: without(lock, "mine", (FULL,)))
    assert read_lock(path).entry("mine") == entry
    change_lock(path, lambda lock: without(lock, "mine", entry.versions))
    assert [entry.name for entry in read_lock(path).models] == [
        entry.name for entry in read_lock(ROOT / "models.lock").models
    ]
    assert one.startswith(TEXT)


COMMENTED = """\
# ours
schema = 1

# the one
[[models]]
name = "one"
license = "MIT"  # they said

# first
[[models.versions]]
quantization = "Q4_0"  # small
source = {kind = "file", file_name = "a.gguf"}

# why the second
# is here
[[models.versions]]
quantization = "Q8_0"
source = {kind = "file", file_name = "b.gguf"}
# the third, without a line between
[[models.versions]]
quantization = "F16"

# where from
[models.versions.source]
kind = "file"
file_name = "c.gguf"
# the end
"""


@pytest.mark.parametrize("number", range(3))
def test_a_version_takes_its_own_comments_with_it_and_no_others(path: Path, number: int) -> None:
    path.write_text(COMMENTED)
    gone = read_lock(path).entry("one").versions[number]
    change_lock(path, lambda lock: without(lock, "one", (gone,)))
    head, first, second, third = (
        COMMENTED[: COMMENTED.index("# first")],
        COMMENTED[COMMENTED.index("# first") : COMMENTED.index("# why")],
        COMMENTED[COMMENTED.index("# why") : COMMENTED.index("# the third")],
        COMMENTED[COMMENTED.index("# the third") :],
    )
    kept = [part.strip("\n") for part in (head, first, second, third) if part != (first, second, third)[number]]
    assert path.read_text() == "\n\n".join(kept) + "\n"
    change_lock(path, lambda lock: without(lock, "one", read_lock(path).entry("one").versions))
    assert path.read_text() == "# ours\nschema = 1\n"


def test_of_versions_that_change_their_comments_stay(path: Path) -> None:
    path.write_text(COMMENTED)
    before = read_lock(path).entry("one")
    changed = tuple(msgspec.structs.replace(version, gguf=GGUF) for version in before.versions[1:])
    after = msgspec.structs.replace(before, versions=(hub_version(), before.versions[0], *changed), note="new")
    change_lock(path, lambda lock: with_entry(lock, after))
    text = path.read_text()
    assert read_lock(path).entry("one") == after
    assert [line for line in COMMENTED.splitlines() if line not in text.splitlines()] == []
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments == [line for line in COMMENTED.splitlines() if line.startswith("#")]
    assert text.index("# first") < text.index('[[models.versions]]\nquantization = "Q4_0"  # small')
    assert text.index('# is here\n[[models.versions]]\nquantization = "Q8_0"') > 0


def test_a_lock_in_another_form_is_not_changed(path: Path) -> None:
    text = 'schema = 1\nmodels = [{name = "a", license = "MIT", versions = []}]\n'.replace(
        "[]", '[{quantization = "F16", source = {kind = "file", file_name = "a.gguf"}}]'
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match="is written in a way that can't be changed here"):
        change_lock(path, lambda lock: with_entry(lock, msgspec.structs.replace(lock.entry("a"), note="x")))
    assert path.read_text() == text


def test_an_entry_in_the_middle_is_removed_alone(path: Path) -> None:
    lock = read_lock(path)
    gone = lock.models[1]
    change_lock(path, lambda lock: without(lock, gone.name, gone.versions))
    assert read_lock(path).models == (lock.models[0], *lock.models[2:])


def test_a_lock_that_can_not_be_written_says_so_and_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("appliance.files.os.replace", full)
    with pytest.raises(ConfigError, match="can't be written: No space left"):
        change_lock(path, lambda lock: with_entry(lock, Entry("mine", "MIT", (FULL,))))
    assert path.read_text() == TEXT
    assert [file.name for file in path.parent.iterdir()] == ["models.lock"]


def test_a_comment_that_looks_like_an_entry_is_a_comment(path: Path) -> None:
    path.write_text(TEXT.replace('[[models]]\nname = "phi', '# like [[models]]\n[[models]]\nname = "phi'))
    entry = read_lock(path).entry("phi-4-mini-instruct")
    after = change_lock(path, lambda lock: with_entry(lock, msgspec.structs.replace(entry, note="x")))
    assert after.entry("phi-4-mini-instruct").note == "x"
    assert "# like [[models]]" in path.read_text()


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "models.lock"
    link.parent.mkdir()
    link.symlink_to(path)
    change_lock(link, lambda lock: with_entry(lock, Entry("mine", "MIT", (FULL,))))
    assert link.is_symlink()
    assert read_lock(path).entry("mine").versions == (FULL,)


@pytest.mark.parametrize("bad", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "", ".", "a//b", "C:x", "a\nb", "./a"])
def test_a_path_that_leaves_its_folder_is_refused(path: Path, bad: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match="no path inside"):
        SourceFile(bad, "0" * 64, 1)
    row = f'files = [{{path = {msgspec.json.encode(bad).decode()}, sha256 = "{"0" * 64}", size_bytes = 1}}]\n'
    path.write_text(TEXT.replace('revision = "5a1', row + 'revision = "5a1'))
    with pytest.raises(ConfigError, match="no path inside"):
        read_lock(path)


def test_a_reference_names_a_version_by_the_beginning_of_a_hash() -> None:
    entry = Entry("mine", "MIT", (FULL, hub_version()))
    lock = Lock(1, (entry,))
    assert lock.resolve("mine") == (entry, FULL)
    assert lock.resolve("mine@abab") == (entry, FULL)
    with pytest.raises(ModelNotFound, match="means several"):
        lock.resolve(f"mine@{REVISION[:8]}")
    with pytest.raises(ModelNotFound, match="does not exist; there are: abababababab, 5a149550068a"):
        lock.resolve("mine@ff")
