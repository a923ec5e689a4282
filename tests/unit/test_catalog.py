"""Which model a name means, and what holds for it: by models.lock, the store, the state folder and the settings."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ConfigError, ModelNotFound
from appliance.models.store import ModelStore
from appliance.schemas.chat import ChatRequest
from appliance.service.catalog import Catalog
from appliance.service.inference import sampling_params
from appliance.settings import ModelSettings, Settings
from tests.fake_models import HEADER, digest, publish_fakes


class Place:
    """A lock and a store of models a, b and c with two versions each, and their state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self.lock = folder / "models.lock"
        publish_fakes(folder, dict.fromkeys("abc", HEADER), n_versions=2, aliases={"a": ("alpha", "gpt-4o")})

    def catalog(self, **settings: Any) -> Catalog:
        config = Settings(models_dir=self.folder, models_lock=self.lock, state_dir=self.state, **settings)
        return Catalog(config, ModelStore(self.folder))

    def file(self, name: str, number: int = 0) -> Path:
        return self.folder / name / digest(name, number)[:12] / "model.gguf"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def key(name: str, number: int = 0) -> str:
    return f"{name}@{digest(name, number)[:12]}"


@pytest.mark.parametrize("reference", [None, "", "a", "alpha", "gpt-4o", f"a@{digest('a')[:6]}", "a@"])
def test_a_model_is_meant_by_nothing_by_its_name_an_alias_or_a_version(place: Place, reference: str | None) -> None:
    assert place.catalog().resolve(reference).spec.key == key("a")


def test_a_version_is_meant_by_the_beginning_of_its_hash(place: Place) -> None:
    assert place.catalog().resolve(f"alpha@{digest('a', 1)[:5]}").spec.key == key("a", 1)


def test_the_default_is_the_setting_s_also_by_an_alias_of_the_settings(place: Place) -> None:
    assert place.catalog(model="b").resolve(None).name == "b"
    catalog = place.catalog(model="mine", models={"c": ModelSettings(aliases=["mine"])})
    assert (catalog.default_name, catalog.resolve(None).name) == ("c", "c")


def test_an_alias_of_the_settings_means_its_model_and_is_told(place: Place) -> None:
    catalog = place.catalog(models={"b": ModelSettings(aliases=["gpt-4o-mini", "vendor/model"])})
    assert catalog.resolve("vendor/model").name == catalog.resolve("gpt-4o-mini").name == "b"
    assert catalog.resolve("b").aliases == ("gpt-4o-mini", "vendor/model")
    assert catalog.resolve("a").aliases == ("alpha", "gpt-4o")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"b": ["a"]}, "models.b.aliases: a means a already"),
        ({"b": ["alpha"]}, "models.b.aliases: alpha means a already"),
        ({"b": ["x"], "c": ["x"]}, "models.c.aliases: x means b already"),
    ],
)
def test_an_alias_that_means_another_model_is_refused_with_both(
    place: Place, models: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        place.catalog(models={name: ModelSettings(aliases=aliases) for name, aliases in models.items()})


def test_an_alias_may_be_given_twice_to_the_same_model(place: Place) -> None:
    assert place.catalog(models={"a": ModelSettings(aliases=["alpha", "a"])}).resolve("alpha").name == "a"


def test_settings_for_a_model_that_there_is_not_are_refused_with_those_there_are(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"models\.d: .*models\.lock has no such model; it has: a, b, c"):
        place.catalog(models={"d": ModelSettings()})


@pytest.mark.parametrize("reference", ["d", "d@123", "@", "@123", "A", "a/b", "../a", "%2e", "\0", " "])
def test_an_unknown_name_is_refused_with_those_there_are(place: Place, reference: str) -> None:
    with pytest.raises(ModelNotFound, match="does not exist; there are: a, b, c"):
        place.catalog().resolve(reference)


def test_an_endless_name_is_not_repeated_in_full(place: Place) -> None:
    with pytest.raises(ModelNotFound) as refused:
        place.catalog().resolve("x" * 10_000)
    assert len(refused.value.message) < 200


def test_an_unknown_version_is_refused_with_those_there_are(place: Place) -> None:
    with pytest.raises(ModelNotFound, match=f"a@0000 does not exist; there are: {digest('a')[:12]}"):
        place.catalog().resolve("a@0000")


def test_a_model_that_is_not_stored_is_refused_with_the_remedy_and_others_are_listed(place: Place) -> None:
    shutil.rmtree(place.folder / "b")
    catalog = place.catalog()
    with pytest.raises(ModelNotFound, match="the model b is not in .*; run `appliance models fetch b`"):
        catalog.resolve("b")
    assert [served.name for served in catalog.current()] == ["a", "c"]
    assert [(found.entry.name, found.served is not None) for found in catalog.all()] == [
        ("a", True), ("a", True), ("b", False), ("b", False), ("c", True), ("c", True)
    ]  # fmt: skip


def test_a_model_that_is_fetched_while_the_server_runs_is_there(place: Place) -> None:
    away = place.folder / "away"
    (place.folder / "b").rename(away)
    catalog = place.catalog()
    with pytest.raises(ModelNotFound):
        catalog.resolve("b")
    away.rename(place.folder / "b")
    assert catalog.resolve("b").name == "b"


def test_where_the_newest_version_is_not_stored_the_next_one_is_served(place: Place) -> None:
    shutil.rmtree(place.file("a").parent)
    assert place.catalog().resolve("a").spec.key == key("a", 1)


def test_a_damaged_file_is_refused_and_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    n_read = 0

    def sha256_of(path: Path, advance: object = None) -> str:
        nonlocal n_read
        n_read += 1
        return "0" * 64

    monkeypatch.setattr("appliance.models.store.sha256_of", sha256_of)
    place.file("b").write_bytes(b"damaged")
    catalog = place.catalog()
    for _ in range(3):
        with pytest.raises(ConfigError, match="it is not served"):
            catalog.resolve("b")
    assert n_read == 1
    assert [served.name for served in catalog.current()] == ["a", "c"]
    shutil.rmtree(place.file("b").parent)  # the remedy
    assert catalog.resolve("b").spec.key == key("b", 1)


def test_what_is_taken_out_of_the_lock_is_gone_and_listeners_are_told_what_is_left(place: Place) -> None:
    catalog = place.catalog()
    told: list[frozenset[str]] = []
    catalog.listen(told.append)
    lines = place.lock.read_text()
    place.lock.write_text(lines[: lines.index('name = "c"')].rpartition("[[models]]")[0])
    with pytest.raises(ModelNotFound, match="there are: a, b$"):
        catalog.resolve("c")
    assert told == [frozenset({key("a"), key("a", 1), key("b"), key("b", 1)})]


def test_a_bad_edit_leaves_the_old_lock_in_force_and_is_logged_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "appliance")
    catalog, good = place.catalog(), place.lock.read_text()
    place.lock.write_text(good + "[[models]]\nname = 3\n")
    for _ in range(3):
        assert catalog.resolve("a").name == "a"
    assert caplog.text.count("models_not_reread") == 1
    place.lock.write_text(good)
    assert catalog.resolve("c").name == "c"
    assert caplog.text.count("models_reread") == 1


def test_a_lock_that_is_gone_leaves_the_old_one_in_force(place: Place) -> None:
    catalog = place.catalog()
    place.lock.unlink()
    assert catalog.resolve("b").name == "b"


def test_an_edit_that_takes_an_alias_of_the_settings_is_a_bad_one(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = place.catalog(models={"b": ModelSettings(aliases=["mine"])})
    place.lock.write_text(place.lock.read_text().replace('"alpha"', '"mine"'))
    assert catalog.resolve("mine").name == "b"
    assert "models.b.aliases: mine means a already" in caplog.text


def test_a_version_is_made_current_and_left_again_and_the_next_server_knows_it(place: Place) -> None:
    catalog = place.catalog()
    catalog.use("a", digest("a", 1)[:8])
    assert catalog.resolve("a").spec.key == place.catalog().resolve("alpha").spec.key == key("a", 1)
    assert [found.is_current for found in catalog.all()[:2]] == [False, True]
    catalog.use("a", "previous")
    assert catalog.resolve("a").spec.key == key("a")
    catalog.use("a", "previous")
    assert catalog.resolve("a").spec.key == key("a", 1)
    catalog.use("a", "")
    assert catalog.resolve("a").spec.key == key("a")
    catalog.use(f"a@{digest('a', 1)[:8]}", "")
    assert catalog.resolve("a").spec.key == key("a", 1)


def test_there_is_no_previous_version_before_one_was_chosen(place: Place) -> None:
    with pytest.raises(ModelNotFound, match="a has no previous version: none was chosen before"):
        place.catalog().use("a", "previous")


def test_a_version_that_is_not_stored_can_not_be_used(place: Place) -> None:
    shutil.rmtree(place.file("a", 1).parent)
    catalog = place.catalog()
    with pytest.raises(ModelNotFound, match="is not stored; build it with: appliance models build a@"):
        catalog.use("a", digest("a", 1)[:8])
    assert catalog.resolve("a").spec.key == key("a")


def test_a_damaged_version_can_be_left(place: Place) -> None:
    place.file("a").write_bytes(b"damaged")
    catalog = place.catalog()
    with pytest.raises(ConfigError):
        catalog.resolve("a")
    catalog.use("a", digest("a", 1)[:8])
    assert catalog.resolve("a").spec.key == key("a", 1)


def test_a_pin_goes_before_the_settings_and_is_kept(place: Place) -> None:
    settings = {"b": ModelSettings(pinned=True)}
    catalog = place.catalog(models=settings)
    assert [catalog.resolve(name).spec.is_pinned for name in "ab"] == [False, True]
    assert catalog.pin("alpha", is_pinned=True).spec.is_pinned
    assert not catalog.pin("b", is_pinned=False).spec.is_pinned
    again = place.catalog(models=settings)
    assert [again.resolve(name).spec.is_pinned for name in "ab"] == [True, False]
    assert again.resolve(key("a", 1)).spec.is_pinned  # all versions of it


def test_a_default_goes_before_the_settings_and_is_kept(place: Place) -> None:
    catalog = place.catalog(model="b")
    catalog.set_default("c")
    assert catalog.resolve(None).name == place.catalog(model="b").resolve(None).name == "c"


def test_a_default_that_was_taken_out_of_the_lock_says_where_it_was_chosen(place: Place) -> None:
    catalog = place.catalog()
    catalog.set_default("c")
    lines = place.lock.read_text()
    place.lock.write_text(lines[: lines.index('name = "c"')].rpartition("[[models]]")[0])
    with pytest.raises(ModelNotFound, match=r"the default model 'c' .*`appliance models default NAME`.*preferences"):
        catalog.resolve(None)
    assert catalog.default_if_any is None
    assert catalog.resolve("a").name == "a"
    catalog.set_default("a")
    assert catalog.resolve(None).name == "a"


def test_settings_of_a_model_go_before_those_for_all(place: Place) -> None:
    own = ModelSettings(n_ctx=512, max_running=2, type_k="q8_0", ttl_s=5, n_gpu_layers=3, require_gpu=False)
    catalog = place.catalog(models={"b": own}, n_ctx=1024, max_running=8, ttl_s=60, require_gpu=True, n_gpu_layers=0)
    a, b = catalog.resolve("a").spec, catalog.resolve("b").spec
    assert (a.wanted.n_ctx, a.max_running, a.wanted.type_k, a.ttl_s, a.wanted.n_gpu_layers, a.require_gpu) == (
        1024, 8, "f16", 60, 0, True
    )  # fmt: skip
    assert (b.wanted.n_ctx, b.max_running, b.wanted.type_k, b.ttl_s, b.wanted.n_gpu_layers, b.require_gpu) == (
        512, 2, "q8_0", 5, 3, False
    )  # fmt: skip


def test_the_types_of_the_kv_cache_are_part_of_what_decides_answers(place: Place) -> None:
    plain, other_k, other_v = (
        place.catalog(models={"b": own}).resolve("b").identity
        for own in (ModelSettings(), ModelSettings(type_k="q8_0"), ModelSettings(type_v="q8_0"))
    )
    assert (plain.type_k, plain.type_v) == ("f16", "f16")
    assert (other_k.type_k, other_k.type_v) == ("q8_0", "f16")
    assert (other_v.type_k, other_v.type_v) == ("f16", "q8_0")
    assert plain.gguf_sha256 == place.catalog().resolve("b").stored.record.gguf_sha256


@pytest.mark.parametrize(
    ("fields", "temperature"), [({}, 0.2), ({"temperature": None}, 0.2), ({"temperature": 0}, 0.0)]
)
def test_sampling_defaults_are_for_requests_that_leave_a_field_out(
    place: Place, fields: dict[str, Any], temperature: float
) -> None:
    own = ModelSettings.model_validate({"sampling": {"temperature": 0.2, "dry_sequence_breakers": ["\n"]}})
    served = place.catalog(models={"a": own}).resolve(None)
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})
    params = sampling_params(request, served.sampling)
    assert (params.temperature, params.dry_sequence_breakers) == (temperature, ("\n",))
    assert sampling_params(request, {}).dry_sequence_breakers != ("\n",)
