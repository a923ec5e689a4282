"""Chooses what fits: layers on each GPU, the context, experts in RAM. What an operator chose is never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from appliance.errors import DoesNotFit
from appliance.hardware import explain
from appliance.hardware.estimate import RunShape, estimate, layers_on_gpus
from appliance.hardware.memory_use import RAM, MemoryUse
from appliance.hardware.repack import REPACKED_TYPES
from appliance.hardware.shape import ModelShape
from appliance.hardware.split import split_evenly

# An automatic context is not halved below this.
LEAST_CONTEXT = 2048
_CELLS_PAD = 256


class Room(msgspec.Struct, frozen=True):
    """Memory that a model may take. A GPU that ``is_unified`` takes it from RAM."""

    device: str
    free_bytes: int
    is_unified: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """What an operator chose. ``n_ctx`` and ``n_gpu_layers`` None mean automatic, -1 layers all; see ``RunShape``.

    With ``is_embedding``, ``n_ctx`` is the longest text, and ``n_batch`` how many tokens of several a step has.
    ``draft`` is a second model that is run beside it in the same way.
    """

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    n_seq_max: int = 1
    n_batch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    n_ctx_default: int = 8192
    n_outputs_max: int = 0
    is_embedding: bool = False
    n_contexts: int = 1
    adapter_bytes: int = 0
    draft: ModelShape | None = None


class Fit(msgspec.Struct, frozen=True):
    """How to run a model, what it then takes, and why: a sentence for each automatic decision."""

    run: RunShape
    memory: MemoryUse
    reasons: tuple[str, ...] = ()


def fit(shape: ModelShape, wanted: Wanted, rooms: tuple[Room, ...], *, repacks: frozenset[str] = REPACKED_TYPES) -> Fit:
    """The largest part on GPUs that fits into ``rooms``: one for RAM, one for each GPU in llama.cpp's order.

    ``repacks``: the types of weights that the CPU keeps a second time.

    Raises:
        DoesNotFit: with the numbers, and the largest setting that would fit.
    """
    return _Fitter(shape, wanted, rooms, repacks).fit()


def step_down(
    shape: ModelShape,
    wanted: Wanted,
    fitted: Fit,
    rooms: tuple[Room, ...],
    *,
    repacks: frozenset[str] = REPACKED_TYPES,
) -> Fit | None:
    """The next smaller way to run it after an out-of-memory, or None when nothing automatic is left to lower.

    A tenth of the layers leaves the GPUs, those of experts first; without any there, the context is halved.
    """
    return _Fitter(shape, wanted, rooms, repacks).step_down(fitted.run)


class _Fitter:
    def __init__(self, shape: ModelShape, wanted: Wanted, rooms: tuple[Room, ...], repacks: frozenset[str]) -> None:
        self._shape = shape
        self._wanted = wanted
        self._rooms = {room.device: room for room in rooms}
        self._gpus = [room for room in rooms if room.device != RAM]
        self._gpu_names = tuple(room.device for room in self._gpus)
        self._repacks = repacks

    def fit(self) -> Fit:
        for n_ctx in self._contexts():
            for run in self._runs(n_ctx):
                memory = self._estimate(run)
                if self._fits(memory):
                    return Fit(run, memory, self._reasons(run))
        raise DoesNotFit(self._refusal())

    def step_down(self, run: RunShape) -> Fit | None:
        for smaller in self._smaller(run):
            memory = self._estimate(smaller)
            if self._fits(memory):
                return Fit(smaller, memory, (explain.stepped_down(run, smaller, self._shape.n_layers),))
        return None

    def _contexts(self) -> list[int]:
        """Those to try, the best first."""
        if self._wanted.n_ctx is not None:
            return [self._wanted.n_ctx]
        trained = self._shape.n_ctx_train or self._wanted.n_ctx_default
        contexts = [min(trained, self._wanted.n_ctx_default)]
        while contexts[-1] // 2 >= LEAST_CONTEXT:
            contexts.append(contexts[-1] // 2)
        return contexts

    def _runs(self, n_ctx: int) -> Iterator[RunShape]:
        """Ways to run it with this context, the one with most layers on GPUs first."""
        if self._wanted.n_gpu_layers is not None:
            yield self._with_fewest_experts_in_ram(self._run(n_ctx, self._wanted.n_gpu_layers))
            return
        low, high = 0, self._shape.n_layers + 1 if self._gpus else 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._gpus_fit(self._with_fewest_experts_in_ram(self._run(n_ctx, middle))):
                low = middle
            else:
                high = middle
        # Fewer layers on GPUs want more RAM, but for what pipelines and the GPU's driver take of it.
        for n_gpu_layers in sorted({low, max(low - 1, 0), 0}, reverse=True):
            yield self._with_fewest_experts_in_ram(self._run(n_ctx, n_gpu_layers))

    def _run(self, n_ctx: int, n_gpu_layers: int, n_cpu_moe: int = 0) -> RunShape:
        wanted = self._wanted
        run = RunShape(
            n_ctx=n_ctx,
            n_seq_max=wanted.n_seq_max,
            n_batch=max(wanted.n_batch, wanted.n_seq_max, n_ctx) if wanted.is_embedding else wanted.n_batch,
            type_k=wanted.type_k,
            type_v=wanted.type_v,
            n_gpu_layers=n_gpu_layers,
            n_cpu_moe=n_cpu_moe,
            n_outputs_max=wanted.n_outputs_max,
            is_embedding=wanted.is_embedding,
            n_contexts=wanted.n_contexts,
            adapter_bytes=wanted.adapter_bytes,
        )
        split = split_evenly(self._shape, run, [room.free_bytes for room in self._gpus])
        return msgspec.structs.replace(run, tensor_split=split)

    def _with_fewest_experts_in_ram(self, run: RunShape) -> RunShape:
        """Experts of the fewest first layers in RAM, so that the GPUs have room for what is theirs."""
        n_repeating = len(self._shape.layers)
        n_on_gpus = layers_on_gpus(n_repeating, run, len(self._gpus))
        if not self._shape.has_experts or n_on_gpus == 0 or self._gpus_fit(run):
            return run
        # The first ones are in RAM anyway. More experts in RAM never take more of a GPU.
        low, high = n_repeating + 1 - n_on_gpus, n_repeating
        while high - low > 1:
            middle = (low + high) // 2
            if self._gpus_fit(self._run(run.n_ctx, run.n_gpu_layers, middle)):
                high = middle
            else:
                low = middle
        return self._run(run.n_ctx, run.n_gpu_layers, high)

    def _smaller(self, run: RunShape) -> Iterator[RunShape]:
        shape, wanted = self._shape, self._wanted
        n_on_gpus = layers_on_gpus(len(shape.layers), run, len(self._gpus))
        step = max(1, shape.n_layers // 10)
        if n_on_gpus and shape.has_experts:
            first = max(run.n_cpu_moe, len(shape.layers) + 1 - n_on_gpus)
            for n_cpu_moe in range(min(first + step, len(shape.layers)), len(shape.layers) + 1, step):
                if n_cpu_moe > run.n_cpu_moe:
                    yield self._run(run.n_ctx, run.n_gpu_layers, n_cpu_moe)
        if wanted.n_gpu_layers is None:
            for n_gpu_layers in range(n_on_gpus - step, -step, -step):
                yield self._run(run.n_ctx, max(0, n_gpu_layers), run.n_cpu_moe)
        if wanted.n_ctx is None:
            n_ctx = run.n_ctx // 2
            while n_ctx >= LEAST_CONTEXT:
                yield self._run(n_ctx, run.n_gpu_layers, run.n_cpu_moe)
                n_ctx //= 2

    def _estimate(self, run: RunShape) -> MemoryUse:
        return estimate(self._shape, run, self._gpu_names, self._repacks, self._wanted.draft)

    def _gpus_fit(self, run: RunShape) -> bool:
        return all(device == RAM for device in self._shortages(self._estimate(run)))

    def _fits(self, memory: MemoryUse) -> bool:
        return not self._shortages(memory)

    def _shortages(self, memory: MemoryUse) -> dict[str, tuple[int, int]]:
        """The devices that have less than is wanted of them, with both numbers."""
        found = {}
        for device, use in memory.items():
            n_bytes = use.total_bytes
            if device == RAM:
                n_bytes += sum(
                    memory[gpu.device].total_bytes for gpu in self._gpus if gpu.is_unified and gpu.device in memory
                )
            room = self._rooms.get(device)
            if room is not None and n_bytes > room.free_bytes:
                found[device] = (n_bytes, room.free_bytes)
        return found

    def _reasons(self, run: RunShape) -> tuple[str, ...]:
        wanted, shape = self._wanted, self._shape
        n_on_gpus = layers_on_gpus(len(shape.layers), run, len(self._gpus))
        used = tuple(gpu for gpu, part in zip(self._gpu_names, run.tensor_split or (1,), strict=False) if part)
        reasons = []
        if wanted.n_ctx is None:
            reasons.append(explain.context(run.n_ctx, wanted.n_ctx_default, shape.n_ctx_train))
        if wanted.n_contexts > 1:
            reasons.append(explain.adapters(wanted.n_contexts))
        if wanted.draft is not None:
            reasons.append(explain.draft())
        if wanted.n_gpu_layers is None and self._gpus:
            reasons.append(explain.layers(n_on_gpus, shape.n_layers, used))
        if run.n_cpu_moe:
            reasons.append(explain.experts(run.n_cpu_moe))
        if len(used) > 1:
            reasons.append(explain.split(run.tensor_split, self._gpu_names))
        return tuple(reasons)

    def _refusal(self) -> str:
        n_ctx = self._contexts()[-1]
        run, shortages = min(
            ((run, self._shortages(self._estimate(run))) for run in self._runs(n_ctx)),
            key=lambda pair: sum(n_bytes - free for n_bytes, free in pair[1].values()),
        )
        names = ("n_ctx", "n_gpu_layers")
        chosen = tuple(name for name in names if getattr(self._wanted, name) is not None)
        return explain.refusal(run, chosen, shortages, self._remedies(n_ctx))

    def _remedies(self, n_ctx: int) -> list[str]:
        found = []
        if self._wanted.n_ctx is not None:
            largest = _largest(n_ctx // _CELLS_PAD, lambda n_cells: self._is_possible(n_cells * _CELLS_PAD))
            if largest:
                found.append(f"n_ctx up to {largest * _CELLS_PAD} would fit")
        if (n_gpu_layers := self._wanted.n_gpu_layers) is not None and n_gpu_layers != 0:
            n_layers = self._shape.n_layers
            most = n_layers if n_gpu_layers < 0 else min(n_gpu_layers, n_layers)
            possible = [number for number in range(most, -1, -1) if self._is_possible(n_ctx, number)]
            if possible:
                found.append(f"n_gpu_layers={possible[0]} (of {n_layers}) would fit")
        n_contexts = self._wanted.n_contexts
        fewer = [number for number in range(n_contexts - 1, 0, -1) if self._with(n_contexts=number)._is_possible(n_ctx)]
        if fewer:
            found.append(f"max_adapters={fewer[0] - 1} instead of {n_contexts - 1} would fit")
        if self._wanted.draft is not None and self._with(draft=None)._is_possible(n_ctx):
            found.append("without its draft_model it would fit")
        return found or ["free some, take a smaller model, or one that is quantized further"]

    def _with(self, **changes: Any) -> _Fitter:
        wanted = msgspec.structs.replace(self._wanted, **changes)
        return _Fitter(self._shape, wanted, tuple(self._rooms.values()), self._repacks)

    def _is_possible(self, n_ctx: int, n_gpu_layers: int | None = None) -> bool:
        if n_gpu_layers is None:
            return any(self._fits(self._estimate(run)) for run in self._runs(n_ctx))
        return self._fits(self._estimate(self._with_fewest_experts_in_ram(self._run(n_ctx, n_gpu_layers))))


def _largest(most: int, is_possible: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that is possible, as all smaller ones are; 0 if none is."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(middle):
            low = middle
        else:
            high = middle
    return low
