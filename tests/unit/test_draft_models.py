"""Which model guesses for another, by their settings, and the memory that it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.cli.engine import engine_config
from appliance.errors import ConfigError, DoesNotFit, ModelNotFound
from appliance.hardware.estimate import estimate
from appliance.hardware.fit import Room, Wanted, fit
from appliance.hardware.memory_use import GIB, MIB, RAM, DeviceMemory
from appliance.models.store import ModelStore
from appliance.service.catalog import Catalog
from appliance.settings import ModelSettings, Settings
from appliance.state.measured import MeasuredMemory
from appliance.supervisor.planner import Planner
from tests.fake_models import EMBEDDING_HEADER, HEADER, digest, publish_fakes, shape
from tests.unit.test_fit import gpu, model, ram

SMALL = model(n_layers=8, layer=20 * MIB, n_kv=256)


class Place:
    """A lock and a store of models a and b with two versions each, and of one that embeds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        headers = {"a": HEADER, "b": HEADER, "vectors": EMBEDDING_HEADER}
        shapes = {name: shape(100 * MIB) for name in headers}
        publish_fakes(folder, headers, n_versions=2, shapes=shapes, aliases={"b": ("small",)})

    def config(self, draft: str, *, name: str = "a", speculation: bool = True) -> Settings:
        return Settings(
            models_dir=self.folder,
            models_lock=self.folder / "models.lock",
            state_dir=self.folder / "state",
            speculation=speculation,
            models={name: ModelSettings(draft_model=draft)},
        )

    def catalog(self, config: Settings) -> Catalog:
        return Catalog(config, ModelStore(self.folder))

    def stored(self, name: str, number: int = 0) -> Path:
        return self.folder / name / digest(name, number)[:12]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("draft", "number"), [("b", 0), ("small", 0), (f"b@{digest('b', 1)[:6]}", 1), (f"b@{digest('b')[:12]}", 0)]
)
def test_a_draft_model_is_named_like_any_model(place: Place, draft: str, number: int) -> None:
    config = place.config(draft)
    spec = place.catalog(config).resolve("a").spec
    assert spec.draft is not None
    assert spec.draft.record.gguf_sha256 == digest("b", number)
    planned = Planner().fit(spec, (Room(RAM, 8 * GIB),))
    told = engine_config(config, spec, planned, kv_disk_bytes=0)
    assert told.draft_model_path == str(place.stored("b", number) / "model.gguf")
    assert planned.memory[RAM].weights_bytes > 1.99 * 100 * MIB


def test_what_was_measured_without_it_says_nothing_of_both(place: Place) -> None:
    spec, rooms = place.catalog(place.config("b")).resolve("a").spec, (Room(RAM, 8 * GIB),)
    measured = MeasuredMemory(place.folder, "build")
    planner = Planner(measured)
    measured.put(spec.stored.record.gguf_sha256, planner.fit(spec, rooms).run, {RAM: DeviceMemory(weights_bytes=1)})
    found = planner.fit(spec, rooms)
    assert found.memory[RAM].weights_bytes > 1
    assert planner.sides(spec, found, ()) == (found.memory, None)


def test_other_models_have_none(place: Place) -> None:
    config = place.config("b")
    spec = place.catalog(config).resolve("b").spec
    assert (spec.draft, spec.wanted.draft) == (None, None)
    told = engine_config(config, spec, Planner().fit(spec, (Room(RAM, 8 * GIB),)), kv_disk_bytes=0)
    assert told.draft_model_path == ""


def test_without_speculation_none_is_loaded(place: Place) -> None:
    shutil.rmtree(place.folder / "b")
    spec = place.catalog(place.config("b", speculation=False)).resolve("a").spec
    assert (spec.draft, spec.wanted.draft) == (None, None)


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        ("x", r"models\.a\.draft_model=x: the model 'x' does not exist; there are: a, b, vectors"),
        ("b@ffff", r"models\.a\.draft_model=b@ffff: b@ffff does not exist; there are: "),
    ],
)
def test_one_that_there_is_not_is_refused_at_the_start(place: Place, draft: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place.catalog(place.config(draft))


@pytest.mark.parametrize(("name", "draft"), [("a", "vectors"), ("vectors", "b")])
def test_one_that_embeds_neither_guesses_nor_is_guessed_for(place: Place, name: str, draft: str) -> None:
    with pytest.raises(ConfigError, match=rf"models\.{name}\.draft_model={draft}: vectors writes no text"):
        place.catalog(place.config(draft, name=name)).resolve(name)


def test_one_that_is_not_stored_is_told_with_the_remedy_until_it_is(place: Place) -> None:
    catalog = place.catalog(place.config("b"))
    away = shutil.move(place.folder / "b", place.folder / "away")
    with pytest.raises(ModelNotFound, match=r"models\.a\.draft_model=b: .* run `appliance models fetch b`, or leave"):
        catalog.resolve("a")
    shutil.move(away, place.folder / "b")
    assert catalog.resolve("a").spec.draft is not None


def test_one_that_was_damaged_is_looked_at_again_when_its_file_is_another(place: Place) -> None:
    catalog, file = place.catalog(place.config("b")), place.stored("b") / "model.gguf"
    kept = file.with_name("kept")
    shutil.move(file, kept)
    file.write_bytes(b"other")
    with pytest.raises(ConfigError, match="it is not served"):
        catalog.resolve("a")
    shutil.move(kept, file)
    assert catalog.resolve("a").spec.draft is not None


def test_its_weights_cache_and_buffers_are_counted_but_not_a_second_process() -> None:
    for rooms in ((ram(64),), (ram(64), gpu(80))):
        gpus = tuple(room.device for room in rooms[1:])
        both = fit(model(), Wanted(draft=SMALL), rooms)
        assert "its draft model beside it, on the same devices and with a context of that size" in both.reasons
        alone = estimate(model(), both.run, gpus)
        beside = estimate(SMALL, both.run, gpus)
        for device, use in both.memory.items():
            for field in ("weights_bytes", "kv_bytes", "compute_bytes"):
                assert getattr(use, field) == getattr(alone[device], field) + getattr(beside[device], field)
            assert alone[device].overhead_bytes < use.overhead_bytes + 1
            assert use.overhead_bytes < alone[device].overhead_bytes + beside[device].overhead_bytes


def test_a_model_gives_way_to_its_draft_model_on_a_gpu_or_is_refused_with_that_remedy() -> None:
    rooms = (ram(64), gpu(7.5))
    without, beside = fit(model(), Wanted(n_ctx=4096), rooms), fit(model(), Wanted(n_ctx=4096, draft=SMALL), rooms)
    assert 0 < beside.run.n_gpu_layers < without.run.n_gpu_layers
    least = fit(model(), Wanted(n_ctx=4096), (ram(64),)).memory[RAM].total_bytes
    with pytest.raises(DoesNotFit, match="without its draft_model it would fit"):
        fit(model(), Wanted(n_ctx=4096, draft=SMALL), (Room(RAM, least + MIB),))
