"""Which adapter a name means, and what holds for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ConfigError, InvalidRequest, ModelNotFound
from appliance.models.store import ModelStore
from appliance.service.catalog import Catalog
from appliance.settings import ModelSettings, Settings
from tests.fake_models import HEADER, digest, publish_fakes


class Place:
    """A model with two adapters, one without, and their lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "models.lock"
        publish_fakes(folder, {"m": HEADER, "n": HEADER}, aliases={"m": ("em",)}, adapters={"m": ("tidy", "harbour")})

    def catalog(self, **own: Any) -> Catalog:
        config = Settings(
            models_dir=self.folder,
            models_lock=self.lock,
            state_dir=self.folder,
            models={"m": ModelSettings(**own)} if own else {},
        )
        return Catalog(config, ModelStore(self.folder))

    def file(self, adapter: str) -> Path:
        (path,) = self.folder.glob(f"m/*/adapters/{adapter}-*.gguf")
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("base", ["m", "em", f"m@{digest('m')[:12]}", f"em@{digest('m')[:5]}"])
def test_an_adapter_is_meant_by_each_name_of_its_model(place: Place, base: str) -> None:
    catalog = place.catalog()
    found, whole = catalog.resolve(f"{base}:harbour"), catalog.resolve("m")
    assert found.name == "m:harbour"
    assert found.spec == whole.spec, "an engine process of its own"
    assert found.adapter is not None
    assert found.adapter.path == str(place.file("harbour"))
    assert catalog.resolve(base).adapter is None


def test_a_name_with_a_colon_may_be_an_alias(place: Place) -> None:
    catalog = place.catalog(aliases=["llama3:8b", "m:tidy"])
    assert catalog.resolve("llama3:8b").name == "m"
    assert catalog.resolve("m:tidy").name == "m", "the alias goes before the adapter"
    assert catalog.resolve("llama3:8b:harbour").name == "m:harbour"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m:other", "the model m has no adapter 'other'; there are: m:tidy, m:harbour"),
        ("n:tidy", "the model n has no adapter 'tidy'; there are: none"),
        ("x:tidy", "the model 'x:tidy' does not exist; there are: m, n"),
        (":tidy", "the model ':tidy' does not exist; there are: m, n"),
        ("m:", "the model 'm:' does not exist; there are: m, n"),
        ("m@ffff:tidy", "m@ffff does not exist"),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(place: Place, reference: str, message: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        place.catalog().resolve(reference)
    assert message in refused.value.message


def test_an_adapter_without_its_file_is_refused_until_it_is_there_again(place: Place) -> None:
    catalog, path = place.catalog(), place.file("tidy")
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(
        ModelNotFound, match=r"m:tidy can't be served: its file is not there; run `appliance models build"
    ):
        catalog.resolve("m:tidy")
    assert [adapter.name for adapter in catalog.resolve("m").spec.adapters] == ["harbour"]
    path.write_bytes(kept)
    assert catalog.resolve("m:tidy").name == "m:tidy"


def test_without_room_for_adapters_none_is_served(place: Place) -> None:
    catalog = place.catalog(max_adapters=0)
    assert (catalog.resolve("m").spec.adapters, catalog.resolve("m").spec.wanted.n_contexts) == ((), 1)
    with pytest.raises(ModelNotFound, match="adapters are off for this model"):
        catalog.resolve("m:tidy")


@pytest.mark.parametrize(("most", "n_contexts"), [(1, 2), (2, 3), (5, 3)])
def test_there_are_no_more_contexts_than_adapters(place: Place, most: int, n_contexts: int) -> None:
    wanted = place.catalog(max_adapters=most).resolve("m").spec.wanted
    assert (wanted.n_contexts, wanted.adapter_bytes) == (n_contexts, len("m:tidy") + len("m:harbour"))


def test_an_answer_tells_its_adapter_and_its_scale(place: Place) -> None:
    catalog = place.catalog(adapter_scales={"tidy": 0.5})
    models = [catalog.resolve(name) for name in ("m", "m:tidy", "m:harbour")]
    models.append(place.catalog().resolve("m:tidy"))
    assert len({model.fingerprint for model in models}) == 4
    assert len({model.identity for model in models}) == 4
    assert models[1].adapter is not None
    assert models[1].adapter.scale == 0.5


def test_a_scale_of_an_adapter_that_there_is_not_is_refused(place: Place) -> None:
    with pytest.raises(
        ConfigError, match=r"models\.m\.adapter_scales: .* has no adapter x of .* it has: harbour, tidy"
    ):
        place.catalog(adapter_scales={"x": 1.0})


def test_what_is_decided_for_a_whole_model_is_not_decided_for_its_adapter(place: Place) -> None:
    catalog = place.catalog()
    for decide in (catalog.set_default, lambda name: catalog.pin(name, is_pinned=True)):
        with pytest.raises(InvalidRequest, match="m:tidy is an adapter of m; name the model, m"):
            decide("m:tidy")
