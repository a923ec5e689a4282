"""From a repository to a lock entry and its files, with the real huggingface_hub client and a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from appliance.errors import ConfigError
from appliance.models.download import Expected
from appliance.models.hub import Hub
from appliance.models.lock import Entry, HubSource, Lock, SourceFile, Version
from appliance.models.lock_file import with_entry
from appliance.models.pin import Wish, parse_repo, pin
from appliance.models.report import Silent
from appliance.models.sources import Sources
from appliance.models.workshop import Workshop
from tests.pipeline.hub import GOOD_TOKEN, LoopbackHub, Repo

WEIGHTS = save({"w": np.arange(2000, dtype=np.float16)})
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "generation_config.json": json.dumps({"temperature": 0.6, "top_k": 20, "eos_token_id": 2}).encode(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}" * 1000,
    "README.md": b"# About",
    "LICENSE": b"MIT License",
    "onnx/model.safetensors": WEIGHTS,
    "consolidated.safetensors": WEIGHTS,
    "training.py": b"import os",
}
TAKEN = ["LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
EMPTY = Lock(1)


class Desk:
    """What `models add` and `models fetch` work with."""

    def __init__(self, folder: Path) -> None:
        self.workshop = Workshop(folder)
        self.sources = Sources(self.workshop, lambda: Hub(self.workshop.hub_home), Silent())

    def pin(self, wish: Wish, lock: Lock = EMPTY) -> tuple[Entry, Version]:
        with self.workshop.entered():
            return pin(wish, lock, Hub(self.workshop.hub_home), self.sources, self.workshop)

    def fetch(self, source: HubSource) -> Path:
        with self.workshop.entered():
            return self.sources.fetch(source)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "models")


@pytest.fixture
def repo(hub: LoopbackHub) -> Repo:
    hub.repos["org/My_Model-7B"] = Repo(dict(FILES), license="mit")
    return hub.repos["org/My_Model-7B"]


WISH = Wish("org/My_Model-7B")


def source_of(version: Version) -> HubSource:
    assert isinstance(version.source, HubSource)
    return version.source


def test_a_branch_becomes_a_commit_and_each_file_a_hash(desk: Desk, repo: Repo) -> None:
    entry, version = desk.pin(WISH)
    source = source_of(version)
    assert (entry.name, entry.license, entry.versions) == ("my_model-7b", "mit", (version,))
    assert (source.repo, source.revision, source.gated) == ("org/My_Model-7B", repo.commit, False)
    assert [file.path for file in source.files] == TAKEN
    for file in source.files:
        data = FILES[file.path]
        assert (file.sha256, file.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert version.quantization == "Q4_0"
    assert version.license_sha256 == hashlib.sha256(FILES["LICENSE"]).hexdigest()
    assert version.defaults == {"temperature": 0.6, "top_k": 20}
    assert version.gguf is None


def test_pinning_reads_small_files_only_and_fetching_the_rest(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    _, version = desk.pin(WISH)
    assert hub.n_gets("model.safetensors") == 0
    folder = desk.fetch(source_of(version))
    assert sorted(path.name for path in folder.iterdir()) == TAKEN
    assert all((folder / name).read_bytes() == FILES[name] for name in TAKEN)
    assert (hub.n_gets("model.safetensors"), hub.n_gets("/config.json")) == (1, 1)
    n_requests = len(hub.requests)
    desk.fetch(source_of(version))
    assert len(hub.requests) == n_requests, "what is here is not asked for again"
    assert not list(desk.workshop.partial.iterdir())


def test_only_what_is_needed_is_asked_of_the_hub(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    desk.pin(WISH)
    assert [path for _, path, _ in hub.requests if path.startswith("/api/")] == [
        "/api/models/org/My_Model-7B/revision/main"
    ]


def test_a_file_is_fetched_by_its_commit_although_the_branch_has_moved(
    desk: Desk, repo: Repo, hub: LoopbackHub
) -> None:
    _, version = desk.pin(WISH)
    repo.files["model.safetensors"] = WEIGHTS + b"newer"
    with pytest.raises(ConfigError, match=f"has no revision {source_of(version).revision}"):
        desk.fetch(source_of(version))


def test_called_again_it_fills_in_what_is_missing_and_keeps_the_rest(desk: Desk, repo: Repo) -> None:
    bare = Version(HubSource("org/My_Model-7B", repo.commit), "Q8_0", defaults={"temperature": 0.1})
    mine = Entry("my_model-7b", "my licence", (bare,), aliases=("gpt-4o",), description="mine")
    entry, version = desk.pin(WISH, with_entry(EMPTY, mine))
    assert [file.path for file in source_of(version).files] == TAKEN
    assert version == msgspec.structs.replace(bare, source=version.source, license_sha256=version.license_sha256)
    assert entry == msgspec.structs.replace(mine, versions=(version,))
    assert desk.pin(WISH, with_entry(EMPTY, entry)) == (entry, version)


def test_a_version_without_a_commit_gets_one(desk: Desk, repo: Repo) -> None:
    mine = Entry(
        "my_model-7b",
        "mit",
        (Version(HubSource("org/My_Model-7B", allow_patterns=("*.json", "*.safetensors")), "Q4_0"),),
    )
    entry, version = desk.pin(WISH, with_entry(EMPTY, mine))
    assert len(entry.versions) == 1
    assert source_of(version).revision == repo.commit
    assert "LICENSE" not in [file.path for file in source_of(version).files]


def test_another_quantization_or_revision_is_another_version(desk: Desk, repo: Repo) -> None:
    entry, first = desk.pin(WISH)
    entry, second = desk.pin(Wish("org/My_Model-7B", quantization="q8_0"), with_entry(EMPTY, entry))
    assert entry.versions == (second, first)
    assert second.quantization == "Q8_0"
    repo.files["config.json"] += b" "
    entry, third = desk.pin(WISH, with_entry(EMPTY, entry))
    assert entry.versions == (third, second, first)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"x"}, "holds no weights"),
        ({"pytorch_model.bin": b"x"}, "--allow-pickle"),
        ({"a-Q4_0.gguf": b"x", "a-Q8_0.gguf": b"x"}, "say with --file which: a-Q4_0.gguf, a-Q8_0.gguf"),
    ],
)
def test_a_repository_that_holds_nothing_to_serve_is_refused(
    desk: Desk, hub: LoopbackHub, files: dict[str, bytes], message: str
) -> None:
    hub.repos["org/model"] = Repo(files)
    with pytest.raises(ConfigError, match=message):
        desk.pin(Wish("org/model"))


def test_pickled_weights_are_taken_when_that_is_said(desk: Desk, hub: LoopbackHub) -> None:
    hub.repos["org/model"] = Repo({"pytorch_model.bin": b"x", "config.json": b"{}"})
    _, version = desk.pin(Wish("org/model", allow_pickle=True))
    assert [file.path for file in source_of(version).files] == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("name", "kind"), [("gemma-3-1b-it-q4_0.gguf", "Q4_0"), ("Qwen-7B-Q4_K_M.gguf", "Q4_K_M"), ("m.F16.gguf", "F16")]
)
def test_the_type_of_a_gguf_file_is_read_off_its_name(desk: Desk, hub: LoopbackHub, name: str, kind: str) -> None:
    hub.repos["org/model"] = Repo({name: b"x", "other.gguf": b"x"})
    _, version = desk.pin(Wish("org/model", allow_patterns=(name,)))
    assert version.quantization == kind
    assert source_of(version).allow_patterns == (name,)


def test_a_gguf_file_whose_name_says_nothing_wants_a_type(desk: Desk, hub: LoopbackHub) -> None:
    hub.repos["org/model"] = Repo({"model.gguf": b"x"})
    with pytest.raises(ConfigError, match="say it with --quant"):
        desk.pin(Wish("org/model", allow_patterns=("*.gguf",)))


def test_an_unknown_type_is_refused_before_the_hub_is_asked(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="--quant Q9: want one of BF16, F16"):
        desk.pin(Wish("org/My_Model-7B", quantization="Q9"))
    assert hub.requests == []


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a\\b"])
def test_a_repository_that_names_files_outside_itself_is_refused(desk: Desk, hub: LoopbackHub, path: str) -> None:
    hub.repos["org/model"] = Repo({path: b"x", **FILES})
    with pytest.raises(ConfigError, match="names a file outside itself"):
        desk.pin(Wish("org/model"))


def test_a_gated_repository_says_where_to_accept_and_what_to_set(
    desk: Desk, repo: Repo, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.gated = True
    for token in (None, "hf_stranger"):
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ConfigError, match=f"accept its conditions at {hub.url}/org/My_Model-7B .* HF_TOKEN"):
            desk.pin(WISH)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    _, version = desk.pin(WISH)
    assert source_of(version).gated
    desk.fetch(source_of(version))


@pytest.mark.parametrize(
    ("wish", "token", "message"),
    [
        (Wish("org/none"), None, "has no repository org/none that this account may see"),
        (Wish("org/none"), GOOD_TOKEN, "has no repository org/none that this account may see"),
        (Wish("org/private"), None, "set HF_TOKEN"),
        (Wish("org/My_Model-7B", "v9"), None, "has no revision v9"),
        (WISH, "hf_bad", "doesn't know the token"),
        (Wish("no name!"), None, "is no name of a repository"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_remedy(
    desk: Desk,
    repo: Repo,
    hub: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    wish: Wish,
    token: str | None,
    message: str,
) -> None:
    hub.repos["org/private"] = Repo(dict(FILES), private=True)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=message) as caught:
        desk.pin(wish)
    assert token is None or token not in caught.value.message


def test_a_hub_that_is_not_there_names_what_to_set(
    desk: Desk, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="can't be reached: .*HF_ENDPOINT .* HTTPS_PROXY .* models import"):
        desk.pin(WISH)


def test_bytes_that_changed_on_the_way_are_refused_and_the_others_kept(
    desk: Desk, repo: Repo, hub: LoopbackHub
) -> None:
    _, version = desk.pin(WISH)
    hub.faults.wrong = "model.safetensors"
    with pytest.raises(ConfigError, match="what came was thrown away"):
        desk.fetch(source_of(version))
    folder = desk.workshop.source_folder(source_of(version))
    assert not (folder / "model.safetensors").exists()
    hub.faults.wrong = None
    desk.fetch(source_of(version))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_fetch_that_was_cut_goes_on_in_the_next_call(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    _, version = desk.pin(WISH)
    hub.faults.cut_after, hub.faults.held = 1000, threading.Event()
    failed: list[BaseException] = []

    def fetch() -> None:
        try:
            desk.fetch(source_of(version))
        except ConfigError as error:
            failed.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    hub.faults.held.set()
    thread.join()
    assert not failed
    ranges = [asked for _, path, asked in hub.requests if path.endswith("model.safetensors")]
    assert ranges[0] is None
    assert "bytes=1000-" in ranges


def test_what_is_partly_here_needs_less_room(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    _, version = desk.pin(WISH)
    source = source_of(version)
    before = desk.sources.n_bytes_missing(source)
    (weights,) = (file for file in source.files if file.path == "model.safetensors")
    expected = Expected(weights.size_bytes, sha256=weights.sha256)
    desk.sources._part(source, weights.path, expected).write_bytes(WEIGHTS[:1000])
    assert desk.sources.n_bytes_missing(source) == before - 1000


def test_a_file_that_changed_on_the_disk_is_found_and_fetched_again(desk: Desk, repo: Repo, hub: LoopbackHub) -> None:
    _, version = desk.pin(WISH)
    folder = desk.fetch(source_of(version))
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(ConfigError, match="it was deleted"):
        desk.sources.verify(source_of(version))
    desk.fetch(source_of(version))
    desk.sources.verify(source_of(version))


def test_a_program_sees_the_pinned_files_and_no_others(desk: Desk, repo: Repo) -> None:
    everything = Wish("org/My_Model-7B", name="all", allow_patterns=("*.md", "*.json"))
    repo.files["a.safetensors"] = WEIGHTS
    desk.pin(Wish("org/My_Model-7B", name="all", allow_patterns=(*everything.allow_patterns, "a.safetensors")))
    _, version = desk.pin(WISH)
    desk.fetch(source_of(version))
    assert (desk.workshop.source_folder(source_of(version)) / "README.md").exists()
    with desk.sources.view(source_of(version), "My_Model-7B") as view:
        assert sorted(path.name for path in view.iterdir()) == sorted([*TAKEN, "a.safetensors"])
        assert view.name == "My_Model-7B"
    assert not view.exists()


@pytest.mark.parametrize("config", ['{"temperature": NaN}', '{"top_k": true}', "[" * 100_000, "[]", "{"])
def test_a_strange_generation_config_gives_no_defaults(desk: Desk, repo: Repo, config: str) -> None:
    repo.files["generation_config.json"] = config.encode()
    _, version = desk.pin(WISH)
    assert version.defaults == {}


def test_a_full_disk_is_noticed_before_anything_is_downloaded(
    desk: Desk, repo: Repo, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, version = desk.pin(WISH)
    n_requests = len(hub.requests)
    huge = SourceFile("huge.safetensors", "0" * 64, 10**15)
    source = msgspec.structs.replace(source_of(version), files=(huge,))
    with pytest.raises(ConfigError, match=r"take 1000000\.0 GB, .* has [\d.]+ GB left; .* models gc"):
        desk.fetch(source)
    assert len(hub.requests) == n_requests


def test_two_commands_do_not_work_in_the_same_place(desk: Desk, tmp_path: Path) -> None:
    with desk.workshop.entered():
        with pytest.raises(ConfigError, match="another `appliance models` command works in"):
            with Desk(tmp_path / "models").workshop.entered():
                pass
    with desk.workshop.entered():
        pass


@pytest.mark.parametrize(
    ("text", "parsed"), [("a/b", ("a/b", None)), ("a/b@main", ("a/b", "main")), ("a/b@", ("a/b", None))]
)
def test_a_repository_is_named_with_its_revision(text: str, parsed: tuple[str, str | None]) -> None:
    assert parse_repo(text) == parsed
