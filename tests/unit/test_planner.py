"""Where a model would lie: by its header, and better by what it took before."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.engine.messages import Buffer, Ready
from appliance.errors import DoesNotFit, GPUMissing
from appliance.hardware.estimate import RunShape
from appliance.hardware.fit import Fit, Room, Wanted
from appliance.hardware.memory_use import MIB, RAM, DeviceMemory, MemoryUse
from appliance.models.store import RECORD_SCHEMA, Record, StoredModel
from appliance.state.measured import MeasuredMemory
from appliance.supervisor.planner import Planner, measured_memory
from appliance.supervisor.spec import ModelSpec
from tests.fake_models import HEADER, shape

MODEL_BYTES = 1000 * MIB
PLENTY = (Room(RAM, 1 << 50),)


def spec(wanted: Wanted | None = None, *, require_gpu: bool = False) -> ModelSpec:
    record = Record(RECORD_SCHEMA, "a", "a" * 64, MODEL_BYTES, 0, 0, "F32", HEADER, shape(MODEL_BYTES))
    wanted = wanted or Wanted(n_ctx=256)
    return ModelSpec(StoredModel(Path("/nowhere"), record), wanted, max_running=4, max_open=8, require_gpu=require_gpu)


@pytest.fixture
def measured(tmp_path: Path) -> MeasuredMemory:
    return MeasuredMemory(tmp_path, "build")


@pytest.fixture
def planner(measured: MeasuredMemory) -> Planner:
    return Planner(measured)


def ready(*buffers: Buffer, anonymous_bytes: int = 0) -> Ready:
    return Ready(256, 5, "build", "device", buffers, anonymous_bytes)


def put(measured: MeasuredMemory, run: RunShape, **mib: int) -> MemoryUse:
    memory = {device: DeviceMemory(weights_bytes=size * MIB) for device, size in mib.items()}
    measured.put("a" * 64, run, memory)
    return memory


def test_without_a_measurement_the_estimate_counts(planner: Planner) -> None:
    fit = planner.fit(spec(), PLENTY)
    assert fit.memory[RAM].weights_bytes >= MODEL_BYTES
    assert fit == Planner().fit(spec(), PLENTY)


def test_a_measurement_goes_before_the_estimate(planner: Planner, measured: MeasuredMemory) -> None:
    memory = put(measured, planner.fit(spec(), PLENTY).run, RAM=700)
    assert planner.fit(spec(), (Room(RAM, 701 * MIB),)).memory == memory


def test_what_was_measured_to_be_larger_does_not_fit_where_the_estimate_would(
    planner: Planner, measured: MeasuredMemory
) -> None:
    estimate = planner.fit(spec(), PLENTY)
    room = (Room(RAM, estimate.memory[RAM].total_bytes),)
    assert planner.fit(spec(), room).memory == estimate.memory
    put(measured, estimate.run, RAM=5000)
    with pytest.raises(DoesNotFit):
        planner.fit(spec(), room)


def test_a_larger_measurement_leaves_fewer_layers_on_the_gpu(planner: Planner, measured: MeasuredMemory) -> None:
    rooms = (Room(RAM, 1 << 50), Room("CUDA0", 2000 * MIB))
    before = planner.fit(spec(), rooms)
    put(measured, before.run, RAM=100, CUDA0=2500)
    after = planner.fit(spec(), rooms)
    assert 0 < after.run.n_gpu_layers < before.run.n_gpu_layers


def test_a_partial_offload_that_was_measured_to_be_too_large_is_not_tried_again(
    planner: Planner, measured: MeasuredMemory
) -> None:
    rooms = (Room(RAM, 1 << 50), Room("CUDA0", 1000 * MIB))
    partial = planner.fit(spec(), rooms)
    assert 0 < partial.run.n_gpu_layers < 10
    put(measured, partial.run, RAM=500, CUDA0=1200)
    assert planner.fit(spec(), rooms).run.n_gpu_layers < partial.run.n_gpu_layers


def test_the_gpu_and_the_ram_of_a_unified_memory_are_one_pool(planner: Planner, measured: MeasuredMemory) -> None:
    on_gpu = spec(Wanted(n_ctx=256, n_gpu_layers=10))
    rooms = (Room(RAM, 1 << 50), Room("Metal", 1 << 50, is_unified=True))
    put(measured, planner.fit(on_gpu, rooms).run, RAM=600, Metal=1500)

    def fit(free_mib: int) -> Fit:
        room = Room(RAM, free_mib * MIB)
        return planner.fit(on_gpu, (room, Room("Metal", room.free_bytes, is_unified=True)))

    assert fit(2100).memory["Metal"].weights_bytes == 1500 * MIB
    with pytest.raises(DoesNotFit):
        fit(1550)  # each of them would have room, and not both


def test_a_model_that_wants_a_gpu_is_refused_without_one_and_told_why() -> None:
    with pytest.raises(GPUMissing, match="a wants a GPU .require_gpu.: the driver sleeps"):
        Planner(why_no_gpu=lambda: "the driver sleeps").fit(spec(require_gpu=True), PLENTY)


def test_what_a_load_on_the_processor_took_is_read_from_its_buffers(planner: Planner) -> None:
    fit = planner.fit(spec(), PLENTY)
    info = ready(
        Buffer("CPU_Mapped", "weights", 900 * MIB),
        Buffer("CPU_REPACK", "weights", 300 * MIB),
        Buffer("CPU", "kv", 50 * MIB),
        Buffer("CPU", "output", 1 * MIB),
        Buffer("CPU", "compute", 40 * MIB),
        anonymous_bytes=450 * MIB,
    )
    assert planner.note(spec(), fit, info) == {
        RAM: DeviceMemory(1200 * MIB, 50 * MIB, 41 * MIB, overhead_bytes=59 * MIB)
    }
    assert planner.fit(spec(), PLENTY).memory[RAM].weights_bytes == 1200 * MIB


def test_what_a_load_on_a_gpu_took_is_read_from_its_buffers() -> None:
    estimated = {RAM: DeviceMemory(overhead_bytes=7), "CUDA0": DeviceMemory(overhead_bytes=300 * MIB)}
    info = ready(
        Buffer("CPU_Mapped", "weights", 100 * MIB),
        Buffer("CUDA0", "weights", 800 * MIB),
        Buffer("CUDA0", "kv", 64 * MIB),
        Buffer("CUDA_Host", "output", 2 * MIB),
        Buffer("CUDA0", "compute", 150 * MIB),
        Buffer("CUDA_Host", "compute", 20 * MIB),
        anonymous_bytes=200 * MIB,
    )
    assert measured_memory(info, estimated) == {
        RAM: DeviceMemory(100 * MIB, 0, 22 * MIB, overhead_bytes=178 * MIB),
        "CUDA0": DeviceMemory(800 * MIB, 64 * MIB, 150 * MIB, overhead_bytes=300 * MIB),
    }


def test_all_types_of_a_gpus_buffers_lie_on_it() -> None:
    info = ready(Buffer("Metal_Mapped", "weights", 5), Buffer("Metal_Private", "kv", 3), anonymous_bytes=11)
    assert measured_memory(info, {RAM: DeviceMemory(), "Metal": DeviceMemory()}) == {
        RAM: DeviceMemory(overhead_bytes=11),  # the process has something there in any case
        "Metal": DeviceMemory(5, 3),
    }


def test_an_engine_that_says_nothing_of_its_buffers_is_not_measured(planner: Planner, measured: MeasuredMemory) -> None:
    fit = planner.fit(spec(), PLENTY)
    assert planner.note(spec(), fit, ready()) == fit.memory
    assert measured.get("a" * 64, fit.run) is None


def test_a_measurement_holds_for_its_settings_only(planner: Planner, measured: MeasuredMemory) -> None:
    put(measured, planner.fit(spec(), PLENTY).run, RAM=1)
    other = spec(Wanted(n_ctx=512))
    assert planner.fit(other, PLENTY).memory[RAM].weights_bytes >= MODEL_BYTES
    assert msgspec.structs.replace(planner.fit(spec(), PLENTY).run, n_ctx=512) == planner.fit(other, PLENTY).run
