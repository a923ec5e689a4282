"""What the fit chooses, and that it never lies."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import DoesNotFit
from appliance.hardware.estimate import RunShape, estimate, placement
from appliance.hardware.fit import Fit, Room, Wanted, fit, step_down
from appliance.hardware.memory_use import GIB, MIB, RAM
from appliance.hardware.shape import LayerShape, ModelShape


def model(
    *, n_layers: int = 32, layer: int = 200 * MIB, experts: int = 0, n_ctx_train: int = 131072, n_kv: int = 1024
) -> ModelShape:
    """Near the size of an 8B model."""
    return ModelShape(
        architecture="llama",
        layers=(
            LayerShape(
                n_bytes=layer + experts,
                n_expert_bytes=experts,
                matrices={"Q8_0": layer},
                expert_matrices={"Q8_0": experts},
                n_k=n_kv,
                n_v=n_kv,
            ),
        )
        * n_layers,
        input_bytes=250 * MIB,
        output_bytes=250 * MIB,
        n_vocab=128_000,
        n_embd=4096,
        n_ff=14336,
        n_head=32,
        n_attention=4096,
        n_expert_used=2 if experts else 0,
        n_ff_expert=1024 if experts else 0,
        n_ctx_train=n_ctx_train,
        file_bytes=500 * MIB + n_layers * (layer + experts),
    )


def ram(gib: float) -> Room:
    return Room(RAM, int(gib * GIB))


def gpu(gib: float, number: int = 0) -> Room:
    return Room(f"CUDA{number}", int(gib * GIB))


def fits(found: Fit, rooms: tuple[Room, ...]) -> bool:
    shared = {room.device for room in rooms if room.is_unified}
    for room in rooms:
        n_bytes = found.memory[room.device].total_bytes if room.device in found.memory else 0
        if room.device == RAM:
            n_bytes += sum(found.memory[device].total_bytes for device in shared & found.memory.keys())
        if n_bytes > room.free_bytes:
            return False
    return True


def test_without_a_gpu_all_is_in_ram_and_no_reason_speaks_of_one() -> None:
    found = fit(model(), Wanted(), (ram(64),))
    assert (found.run.n_gpu_layers, found.run.n_ctx) == (0, 8192)
    assert list(found.memory) == [RAM]
    assert found.reasons == ("n_ctx=8192: the default",)


def test_a_large_gpu_takes_all_layers_and_the_output_head() -> None:
    found = fit(model(), Wanted(), (ram(64), gpu(80)))
    assert found.run.n_gpu_layers == 33
    assert found.memory["CUDA0"].weights_bytes == (32 * 200 + 250) * MIB
    assert found.memory[RAM].kv_bytes == 0
    assert "all 33 layers on CUDA0: they fit" in found.reasons


def test_a_small_gpu_takes_as_many_layers_as_fit_and_not_one_more() -> None:
    rooms = (ram(64), gpu(6))
    found = fit(model(), Wanted(), rooms)
    assert 0 < found.run.n_gpu_layers < 33
    more = msgspec.structs.replace(found.run, n_gpu_layers=found.run.n_gpu_layers + 1)
    assert estimate(model(), more, ("CUDA0",))["CUDA0"].total_bytes > 6 * GIB
    assert any(reason.startswith(f"{found.run.n_gpu_layers} of 33 layers on CUDA0") for reason in found.reasons)


def test_a_gpu_that_has_room_for_nothing_is_left_alone() -> None:
    found = fit(model(), Wanted(), (ram(64), gpu(0.2)))
    assert found.run.n_gpu_layers == 0
    assert "no layer on a GPU: not one fits" in found.reasons


def test_layers_are_divided_by_what_each_gpu_has_free() -> None:
    found = fit(model(), Wanted(), (ram(64), gpu(24), gpu(12, 1)))
    first, second = found.run.tensor_split
    assert first + second == 33
    assert first > second > 5
    assert (
        f"layers divided {int(first)} on CUDA0, {int(second)} on CUDA1: so that all are about as full" in found.reasons
    )


def test_two_gpus_hold_together_what_one_could_not() -> None:
    rooms = (ram(64), gpu(5.5), gpu(5.5, 1))
    assert fit(model(), Wanted(), rooms).run.n_gpu_layers == 33
    assert fit(model(), Wanted(), rooms[:2]).run.n_gpu_layers < 33


def test_experts_go_to_ram_before_whole_layers_do() -> None:
    shape = model(layer=50 * MIB, experts=400 * MIB)
    found = fit(shape, Wanted(), (ram(64), gpu(10)))
    assert found.run.n_gpu_layers == 33
    assert 0 < found.run.n_cpu_moe < 32
    fewer = msgspec.structs.replace(found.run, n_cpu_moe=found.run.n_cpu_moe - 1)
    assert estimate(shape, fewer, ("CUDA0",))["CUDA0"].total_bytes > 10 * GIB
    assert any("experts of the first" in reason for reason in found.reasons)


def test_unified_memory_is_counted_once() -> None:
    shape = model()
    need = fit(shape, Wanted(), (ram(64), Room("Metal", 48 * GIB, is_unified=True)))
    total = sum(use.total_bytes for use in need.memory.values())
    assert need.run.n_gpu_layers == 33
    with pytest.raises(DoesNotFit):
        fit(shape, Wanted(n_ctx=8192), (Room(RAM, total - GIB), Room("Metal", total, is_unified=True)))


def test_an_automatic_context_is_halved_until_it_fits() -> None:
    shape = model(n_kv=8192)
    found = fit(shape, Wanted(), (ram(13),))
    assert found.run.n_ctx == 4096
    assert "n_ctx=4096: twice as much doesn't fit" in found.reasons


def test_an_automatic_context_is_no_longer_than_what_the_model_was_trained_for() -> None:
    found = fit(model(n_ctx_train=1024), Wanted(), (ram(64),))
    assert found.run.n_ctx == 1024
    assert "n_ctx=1024: what the model was trained for" in found.reasons


def test_a_chosen_context_that_does_not_fit_is_refused_with_the_largest_that_would() -> None:
    shape = model()
    with pytest.raises(DoesNotFit, match=r"n_ctx=131072 wants 2\d\.\d GiB of RAM, where 16\.0 GiB is free") as refused:
        fit(shape, Wanted(n_ctx=131072), (ram(16),))
    largest = int(refused.value.message.split("n_ctx up to ")[1].split()[0])
    assert fit(shape, Wanted(n_ctx=largest), (ram(16),)).run.n_ctx == largest
    with pytest.raises(DoesNotFit):
        fit(shape, Wanted(n_ctx=largest + 256), (ram(16),))


def test_chosen_layers_that_do_not_fit_are_refused_with_how_many_would() -> None:
    with pytest.raises(DoesNotFit, match="of CUDA0, where 4.0 GiB is free") as refused:
        fit(model(), Wanted(n_gpu_layers=-1), (ram(64), gpu(4)))
    most = int(refused.value.message.split("n_gpu_layers=")[2].split()[0])
    assert fit(model(), Wanted(n_gpu_layers=most), (ram(64), gpu(4))).run.n_gpu_layers == most
    with pytest.raises(DoesNotFit):
        fit(model(), Wanted(n_gpu_layers=most + 1), (ram(64), gpu(4)))


def test_contexts_for_adapters_count_in_full_and_shrink_an_automatic_context() -> None:
    shape, rooms = model(), (ram(9),)
    alone, adapted = fit(shape, Wanted(), rooms), fit(shape, Wanted(n_contexts=3, adapter_bytes=320 * MIB), rooms)
    assert (alone.run.n_ctx, adapted.run.n_ctx) == (8192, 2048)
    one = fit(shape, Wanted(n_ctx=2048), rooms).memory[RAM]
    three = adapted.memory[RAM]
    assert (three.kv_bytes, three.compute_bytes) == (3 * one.kv_bytes, 3 * one.compute_bytes)
    assert three.weights_bytes == one.weights_bytes + 320 * MIB
    assert "3 contexts of that size: the model's own, and 2 adapters at a time beside it" in adapted.reasons
    on_gpu = fit(shape, Wanted(n_contexts=3, adapter_bytes=320 * MIB), (ram(64), gpu(80))).memory
    assert (
        on_gpu["CUDA0"].weights_bytes
        == fit(shape, Wanted(), (ram(64), gpu(80))).memory["CUDA0"].weights_bytes + 320 * MIB
    )


def test_with_fewer_adapters_at_a_time_it_may_fit() -> None:
    with pytest.raises(DoesNotFit, match="or max_adapters=1 instead of 2 would fit") as refused:
        fit(model(), Wanted(n_ctx=8192, n_contexts=3), (ram(10),))
    assert "n_ctx up to" in refused.value.message
    assert fit(model(), Wanted(n_ctx=8192, n_contexts=2), (ram(10),)).run.n_contexts == 2


def test_a_model_that_fits_in_no_way_is_refused_with_what_it_would_want_at_least() -> None:
    with pytest.raises(
        DoesNotFit, match="the model, even with n_ctx=2048, wants .* of RAM, where 4.0 GiB is free; free"
    ):
        fit(model(), Wanted(), (ram(4),))


def test_a_shortage_of_a_few_bytes_is_told_in_a_unit_that_shows_it() -> None:
    shape, wanted = model(), Wanted(n_ctx=2048)
    n_bytes = fit(shape, wanted, (ram(64),)).memory[RAM].total_bytes
    with pytest.raises(DoesNotFit) as refused:
        fit(shape, wanted, (Room(RAM, n_bytes - 2 * MIB),))
    wants, has = (part.split(" MiB")[0].split()[-1] for part in refused.value.message.split("of RAM, where"))
    assert int(wants) > int(has)


def test_a_model_of_unknown_shape_fits_anywhere() -> None:
    found = fit(ModelShape(), Wanted(), (ram(1), gpu(1)))
    assert found.run.n_ctx == 8192


# --- stepping down ---


def test_out_of_memory_takes_a_tenth_of_the_layers_off_the_gpu() -> None:
    rooms = (ram(64), gpu(80))
    found = fit(model(), Wanted(), rooms)
    smaller = step_down(model(), Wanted(), found, rooms)
    assert smaller is not None
    assert (smaller.run.n_gpu_layers, smaller.run.n_ctx) == (30, found.run.n_ctx)
    assert smaller.reasons == ("30 of 33 layers on GPUs instead of 33: memory ran out",)


def test_out_of_memory_moves_experts_first() -> None:
    shape, rooms = model(layer=50 * MIB, experts=400 * MIB), (ram(64), gpu(80))
    smaller = step_down(shape, Wanted(), fit(shape, Wanted(), rooms), rooms)
    assert smaller is not None
    assert (smaller.run.n_gpu_layers, smaller.run.n_cpu_moe) == (33, 3)


def test_out_of_memory_without_layers_on_a_gpu_halves_the_context() -> None:
    rooms = (ram(64),)
    found = step_down(model(), Wanted(), fit(model(), Wanted(), rooms), rooms)
    assert found is not None
    assert found.run.n_ctx == 4096


def test_what_the_operator_chose_is_never_stepped_down() -> None:
    wanted, rooms = Wanted(n_ctx=8192, n_gpu_layers=33), (ram(64), gpu(80))
    assert step_down(model(), wanted, fit(model(), wanted, rooms), rooms) is None


def test_stepping_down_ends() -> None:
    rooms = (ram(64), gpu(80), gpu(80, 1))
    found: Fit | None = fit(model(), Wanted(), rooms)
    n_steps = 0
    while found is not None:
        found, n_steps = step_down(model(), Wanted(), found, rooms), n_steps + 1
    assert n_steps < 20


# --- properties ---

layers = st.builds(
    LayerShape,
    n_bytes=st.integers(MIB, 300 * MIB),
    n_k=st.sampled_from([0, 64, 128, 1024]),
    n_v=st.sampled_from([0, 64, 128, 1024]),
    n_state=st.sampled_from([0, 0, 4096]),
)
expert_layers = st.builds(
    lambda n, experts: LayerShape(
        n_bytes=n + experts, n_expert_bytes=experts, expert_matrices={"Q4_0": experts}, n_k=512, n_v=512
    ),
    st.integers(MIB, 40 * MIB),
    st.integers(MIB, 300 * MIB),
)
shapes = st.builds(
    ModelShape,
    architecture=st.just("llama"),
    layers=st.one_of(
        st.lists(layers, max_size=40).map(tuple), st.lists(expert_layers, min_size=1, max_size=40).map(tuple)
    ),
    input_bytes=st.integers(0, 500 * MIB),
    output_bytes=st.integers(0, 500 * MIB),
    n_vocab=st.integers(1, 200_000),
    n_embd=st.integers(64, 8192),
    n_ff=st.integers(64, 30_000),
    n_attention=st.integers(64, 8192),
    n_expert_used=st.integers(0, 8),
    n_ff_expert=st.integers(0, 2000),
    n_ctx_train=st.sampled_from([512, 4096, 131072]),
    n_swa=st.sampled_from([0, 1024]),
)
wanteds = st.builds(
    Wanted,
    n_ctx=st.none() | st.integers(64, 40_000),
    n_gpu_layers=st.none() | st.integers(-1, 50),
    n_seq_max=st.integers(1, 65),
    type_k=st.sampled_from(["f16", "q8_0"]),
    type_v=st.sampled_from(["f16", "q4_0"]),
)
gpu_rooms = st.lists(st.floats(0.1, 16), max_size=3).map(lambda sizes: tuple(map(gpu, sizes, range(len(sizes)))))
unified_rooms = st.floats(0.1, 16).map(lambda size: (Room("Metal", int(size * GIB), is_unified=True),))
all_rooms = st.builds(lambda first, rest: (ram(first), *rest), st.floats(0.5, 24), st.one_of(gpu_rooms, unified_rooms))


@settings(max_examples=300, deadline=None)
@given(shape=shapes, wanted=wanteds, rooms=all_rooms)
def test_what_is_chosen_never_exceeds_any_room_and_keeps_what_the_operator_chose(
    shape: ModelShape, wanted: Wanted, rooms: tuple[Room, ...]
) -> None:
    try:
        found = fit(shape, wanted, rooms)
    except DoesNotFit:
        return
    assert fits(found, rooms)
    assert found.memory == estimate(shape, found.run, tuple(room.device for room in rooms[1:]))
    for name in ("n_ctx", "n_gpu_layers"):
        chosen = getattr(wanted, name)
        assert chosen is None or getattr(found.run, name) == chosen
    for name in ("n_seq_max", "n_batch", "type_k", "type_v"):
        assert getattr(found.run, name) == getattr(wanted, name)
    smaller = step_down(shape, wanted, found, rooms)
    if smaller is not None:
        assert fits(smaller, rooms)
        assert wanted.n_ctx in (None, smaller.run.n_ctx)
        assert wanted.n_gpu_layers in (None, smaller.run.n_gpu_layers)


def rank(found: Fit) -> tuple[int, int, int]:
    return found.run.n_ctx, found.run.n_gpu_layers, -found.run.n_cpu_moe


@settings(max_examples=300, deadline=None)
@given(shape=shapes, wanted=wanteds, rooms=all_rooms, more=st.lists(st.integers(0, 4 * GIB), min_size=4, max_size=4))
def test_more_memory_never_gives_less(
    shape: ModelShape, wanted: Wanted, rooms: tuple[Room, ...], more: list[int]
) -> None:
    try:
        before = fit(shape, wanted, rooms)
    except DoesNotFit:
        return
    larger = tuple(
        msgspec.structs.replace(room, free_bytes=room.free_bytes + extra)
        for room, extra in zip(rooms, more, strict=False)
    )
    assert rank(fit(shape, wanted, larger)) >= rank(before)


runs = st.builds(
    RunShape,
    n_ctx=st.integers(64, 100_000),
    n_seq_max=st.integers(1, 65),
    n_batch=st.integers(8, 2048),
    n_gpu_layers=st.integers(0, 45),
    n_cpu_moe=st.integers(0, 45),
)


@settings(max_examples=300, deadline=None)
@given(shape=shapes, run=runs, more=st.integers(0, 50_000))
def test_a_longer_context_never_takes_less(shape: ModelShape, run: RunShape, more: int) -> None:
    before = estimate(shape, run, ("CUDA0",))
    after = estimate(shape, msgspec.structs.replace(run, n_ctx=run.n_ctx + more), ("CUDA0",))
    assert all(after[device].total_bytes >= use.total_bytes for device, use in before.items())


@settings(max_examples=300, deadline=None)
@given(shape=shapes, run=runs)
def test_a_layer_more_on_the_gpu_never_takes_less_of_it(shape: ModelShape, run: RunShape) -> None:
    more = msgspec.structs.replace(run, n_gpu_layers=run.n_gpu_layers + 1)
    before, after = estimate(shape, run, ("CUDA0",)), estimate(shape, more, ("CUDA0",))
    assert "CUDA0" not in before or after["CUDA0"].total_bytes >= before["CUDA0"].total_bytes


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any))
def test_counts_given_as_the_split_come_out_as_they_are(counts: list[int]) -> None:
    n_layers = sum(counts)
    run = RunShape(n_ctx=512, n_seq_max=1, n_batch=64, n_gpu_layers=n_layers, tensor_split=tuple(map(float, counts)))
    places = placement(n_layers + 4, run, len(counts))
    assert places[:5] == [None] * 5
    assert [places.count(number) for number in range(len(counts))] == counts
