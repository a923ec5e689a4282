"""How many bytes a model takes on each device, from its header's numbers and how it is run.

Weights and the KV cache are exact. Compute buffers follow what llama.cpp's graphs keep at the same time, fitted against
what it says of its own buffers; ``tests/model/test_memory.py`` compares them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

import msgspec

from appliance.hardware.memory_use import MIB, RAM, DeviceMemory, MemoryUse
from appliance.hardware.repack import REPACKED_TYPES
from appliance.hardware.shape import LayerShape, ModelShape

# Bytes and elements of a block of the types that a KV cache may have (ggml-common.h).
_CACHE_TYPES = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q5_1": (24, 32),
    "q5_0": (22, 32),
    "q4_1": (20, 32),
    "q4_0": (18, 32),
    "iq4_nl": (18, 32),
}
_CELLS_PAD = 256  # llama-context.cpp rounds n_ctx up to this
_FLOAT, _MASK = 4, 2  # bytes; the attention mask is f16
# ggml's allocator leaves gaps between tensors: 4 % at most in what was measured.
_GAPS = 1.05
# While several GPUs compute one after another, each input is kept as often (GGML_SCHED_MAX_COPIES).
_PIPELINE_COPIES = 4
# Without buffers an engine process has this much in memory that no file backs: the interpreter, libraries, graphs. Of
# the vocabulary, each token's text, number and merges are kept in tables. Measured on Linux with Python 3.11.
PROCESS_BYTES = 40 * MIB
TOKEN_BYTES = 400
CELL_BYTES = 64
# What CUDA takes for a context, the loaded kernels and cuBLAS, on a GPU and in RAM. Not measured here: common values
# are 300 to 500 MiB; llama.cpp's own fitting keeps 1 GiB of each GPU free for this and all else (common.h).
GPU_CONTEXT_BYTES = 512 * MIB
GPU_PROCESS_BYTES = 256 * MIB
# Backends that bring page-locked RAM, which llama.cpp prefers to reordered weights (make_cpu_buft_list).
_WITH_HOST_BUFFERS = ("CUDA", "ROCm", "MUSA", "Vulkan", "SYCL", "CANN")


class RunShape(msgspec.Struct, frozen=True):
    """How a model is run.

    ``n_seq_max`` is llama.cpp's: sequences that run, are retained, or are kept aside. ``n_gpu_layers`` of the layers,
    counted from the last one, are on GPUs, the output head being the last; -1 means all. ``n_cpu_moe`` of the first
    layers keep their experts in RAM all the same. ``tensor_split`` has each GPU's part of the layers on GPUs, empty:
    equal parts. ``n_outputs_max`` tokens of a batch may want logits, 0: all. One that ``is_embedding`` gives vectors
    of texts, each of which must fit into a batch. ``n_contexts`` of this size share the weights, and what adapters add
    to those, which is ``adapter_bytes``.
    """

    n_ctx: int
    n_seq_max: int
    n_batch: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_gpu_layers: int = 0
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    n_outputs_max: int = 0
    is_embedding: bool = False
    n_contexts: int = 1
    adapter_bytes: int = 0


def estimate(
    shape: ModelShape,
    run: RunShape,
    gpus: tuple[str, ...] = (),
    repacks: frozenset[str] = REPACKED_TYPES,
    draft: ModelShape | None = None,
) -> MemoryUse:
    """What each device would hold. ``gpus`` are the devices in llama.cpp's order.

    ``repacks``: the types of weights that the CPU keeps a second time. ``draft``: a second model in the same process,
    which is run in the same way, but for adapters.
    """
    found = _estimate(shape, run, gpus, repacks)
    if draft is None:
        return found
    beside = _estimate(draft, msgspec.structs.replace(run, n_contexts=1, adapter_bytes=0), gpus, repacks)
    # What the process and the driver take, they take once.
    in_ram = PROCESS_BYTES + (GPU_PROCESS_BYTES if min(len(found), len(beside)) > 1 else 0)
    return {
        device: _together(found[device], beside[device], in_ram if device == RAM else GPU_CONTEXT_BYTES)
        if device in found and device in beside
        else (found | beside)[device]
        for device in found | beside
    }


def _together(one: DeviceMemory, other: DeviceMemory, n_shared: int) -> DeviceMemory:
    return DeviceMemory(
        weights_bytes=one.weights_bytes + other.weights_bytes,
        kv_bytes=one.kv_bytes + other.kv_bytes,
        compute_bytes=one.compute_bytes + other.compute_bytes,
        overhead_bytes=one.overhead_bytes + other.overhead_bytes - n_shared,
    )


def _estimate(shape: ModelShape, run: RunShape, gpus: tuple[str, ...], repacks: frozenset[str]) -> MemoryUse:
    places = placement(len(shape.layers), run, len(gpus))
    in_ram = DeviceMemory(
        weights_bytes=_ram_weights(shape, run, places, repacks if _may_repack(gpus) else frozenset()),
        kv_bytes=sum(_cache(shape, layer, run) for layer, at in zip(shape.layers, places, strict=False) if at is None),
        compute_bytes=_ram_compute(shape, run, places, len(gpus)),
        overhead_bytes=_ram_overhead(shape, run, places),
    )
    return {RAM: in_ram} | _on_gpus(shape, run, places, gpus)


def placement(n_repeating: int, run: RunShape, n_gpus: int) -> list[int | None]:
    """The GPU of each layer, the output head being the last, or None for those in RAM: exactly as llama.cpp rounds."""
    n_on_gpus = layers_on_gpus(n_repeating, run, n_gpus)
    split = run.tensor_split or (1.0,) * n_gpus
    bounds: list[float] = []
    for part in split[:n_gpus]:
        bounds.append(_f32((bounds[-1] if bounds else 0.0) + _f32(part)))
    if n_on_gpus == 0 or not bounds or bounds[-1] <= 0:
        return [None] * (n_repeating + 1)
    bounds = [_f32(bound / bounds[-1]) for bound in bounds]
    in_ram: list[int | None] = [None] * (n_repeating + 1 - n_on_gpus)
    return in_ram + [bisect_right(bounds, _f32(number / n_on_gpus)) for number in range(n_on_gpus)]


def layers_on_gpus(n_repeating: int, run: RunShape, n_gpus: int) -> int:
    """How many layers are on GPUs, the output head counted."""
    if n_gpus == 0:
        return 0
    return n_repeating + 1 if run.n_gpu_layers < 0 else min(run.n_gpu_layers, n_repeating + 1)


def cache_row_bytes(n_elements: int, kind: str) -> int:
    """Bytes that one token's keys or values take in a layer."""
    n_bytes, n_in_block = _CACHE_TYPES[kind]
    return -(-n_elements // n_in_block) * n_bytes


def cells(run: RunShape) -> int:
    """The KV cache's cells: llama.cpp rounds up."""
    n_tokens = max(run.n_ctx, run.n_batch) if run.is_embedding else run.n_ctx
    return -(-n_tokens // _CELLS_PAD) * _CELLS_PAD


def _cache(shape: ModelShape, layer: LayerShape, run: RunShape) -> int:
    if shape.is_encoder:
        return 0
    row = cache_row_bytes(layer.n_k, run.type_k) + cache_row_bytes(layer.n_v, run.type_v)
    return run.n_contexts * (cells(run) * row + _FLOAT * layer.n_state * max(run.n_seq_max, 1))


def _adapters(shape: ModelShape, run: RunShape) -> int:
    """Bytes of a layer's part of all adapters, which lie where it does."""
    return -(-run.adapter_bytes // max(len(shape.layers), 1))


def _ram_weights(shape: ModelShape, run: RunShape, places: list[int | None], repacks: frozenset[str]) -> int:
    """Tensors that stay in RAM count in full, mapped or not: all their pages are used. Copies come on top."""
    n_bytes = shape.input_bytes
    for number, layer in enumerate(shape.layers):
        if places[number] is None:
            n_bytes += layer.n_bytes + _adapters(shape, run)
            n_bytes += _repacked(layer.matrices, repacks) + _repacked(layer.expert_matrices, repacks)
        elif number < run.n_cpu_moe:
            n_bytes += layer.n_expert_bytes + _repacked(layer.expert_matrices, repacks)
    if places[-1] is None:
        # Tied, it is mapped already.
        n_bytes += shape.output_bytes - shape.tied_bytes + _repacked(shape.output_matrices, repacks)
    return n_bytes


def _repacked(matrices: dict[str, int], repacks: frozenset[str]) -> int:
    return sum(n_bytes for kind, n_bytes in matrices.items() if kind in repacks)


def _may_repack(gpus: tuple[str, ...]) -> bool:
    return not any(gpu.startswith(_WITH_HOST_BUFFERS) for gpu in gpus)


def on_gpu(shape: ModelShape, run: RunShape, index: int) -> tuple[int, int]:
    """Weights and cache that a layer has on a GPU, in bytes; the output head is the last layer."""
    if index == len(shape.layers):
        return shape.output_bytes, 0
    layer = shape.layers[index]
    weights = layer.n_bytes - (layer.n_expert_bytes if index < run.n_cpu_moe else 0) + _adapters(shape, run)
    return weights, _cache(shape, layer, run)


def gpu_compute(shape: ModelShape, run: RunShape, n_gpus: int, *, is_first: bool, has_head: bool) -> int:
    """Bytes of a GPU's compute buffers, with any layers on it."""
    compute = _GAPS * max(_layer_phase(shape, run), _head_phase(shape, run) if has_head else 0)
    compute += _copies(run, shape, n_gpus) * _inputs(shape, run)
    if is_first:
        compute += _borrowed(shape, run, len(shape.layers) + 1 - layers_on_gpus(len(shape.layers), run, n_gpus))
    return run.n_contexts * int(compute)


def _on_gpus(shape: ModelShape, run: RunShape, places: list[int | None], gpus: tuple[str, ...]) -> MemoryUse:
    found: MemoryUse = {}
    for number, gpu in enumerate(gpus):
        layers = [on_gpu(shape, run, index) for index, place in enumerate(places) if place == number]
        if layers:
            found[gpu] = DeviceMemory(
                weights_bytes=sum(weights for weights, _ in layers),
                kv_bytes=sum(cache for _, cache in layers),
                compute_bytes=gpu_compute(shape, run, len(gpus), is_first=number == 0, has_head=places[-1] == number),
                overhead_bytes=GPU_CONTEXT_BYTES,
            )
    return found


def _borrowed(shape: ModelShape, run: RunShape, n_in_ram: int) -> int:
    """Large batches go through layers in RAM on the first GPU, too: a layer's weights are then copied there."""
    in_ram = [
        layer.n_bytes if number < n_in_ram else layer.n_expert_bytes if number < run.n_cpu_moe else 0
        for number, layer in enumerate(shape.layers)
    ]
    return max(in_ram, default=0)


def _ram_compute(shape: ModelShape, run: RunShape, places: list[int | None], n_gpus: int) -> int:
    n_repeating = len(shape.layers)
    has_layers = None in places[:n_repeating] or (run.n_cpu_moe > 0 and shape.has_experts)
    phases = [_layer_phase(shape, run)] if has_layers or not n_repeating else [0]
    if places[-1] is None:
        phases.append(_head_phase(shape, run))
    # Without a GPU, the inputs' room is used again by the head.
    inputs = _copies(run, shape, n_gpus) * _inputs(shape, run)
    most = max(phases[0] + inputs, *phases[1:]) if places[-1] is None else phases[0] + inputs
    return run.n_contexts * (int(_GAPS * most) + _output(shape, run))


def _output(shape: ModelShape, run: RunShape) -> int:
    """What is copied out of a batch. The room that an encoder has for logits is never touched."""
    n_rows = max(run.n_batch if run.is_embedding else run.n_seq_max, 1)
    width = (0 if shape.is_encoder else shape.n_vocab) + (shape.n_embd if run.is_embedding else 0)
    return _FLOAT * n_rows * width


def _copies(run: RunShape, shape: ModelShape, n_gpus: int) -> int:
    is_pipeline = n_gpus > 1 and layers_on_gpus(len(shape.layers), run, n_gpus) > len(shape.layers)
    return _PIPELINE_COPIES if is_pipeline and run.n_cpu_moe == 0 else 1


def _tokens(run: RunShape) -> int:
    """A batch's tokens in the largest graph: rounded up, so that each sequence has as many."""
    n_seqs = max(run.n_seq_max, 1)
    return -(-min(run.n_batch, cells(run)) // n_seqs) * n_seqs


def _inputs(shape: ModelShape, run: RunShape) -> int:
    """The attention mask, one more with sliding windows, and what a device gets of the layer before."""
    n_masks = (1 if any(layer.n_k for layer in shape.layers) else 0) + (1 if shape.n_swa else 0)
    return _tokens(run) * (n_masks * cells(run) * _MASK + shape.n_embd * _FLOAT)


def _layer_phase(shape: ModelShape, run: RunShape) -> int:
    """The most that is alive at the same time within a layer: attention, the feed-forward network, or experts."""
    n_kv = max((layer.n_k for layer in shape.layers), default=0)
    attention = 2 * shape.n_embd + (5 * shape.n_attention) // 2 + 2 * n_kv
    network = 3 * shape.n_ff + 3 * shape.n_embd
    hidden = shape.n_expert_used * shape.n_ff_expert
    experts = max(3 * hidden + 3 * shape.n_embd, (2 * shape.n_expert_used + 1) * shape.n_embd + hidden)
    widest = max(attention, network, experts + shape.n_attention if hidden else 0)
    return _FLOAT * _tokens(run) * widest


def _head_phase(shape: ModelShape, run: RunShape) -> int:
    n_tokens = min(run.n_batch, cells(run))
    n_outputs = 0 if shape.is_encoder else min(n_tokens, run.n_outputs_max or n_tokens)
    return _FLOAT * (n_outputs * shape.n_vocab + 2 * _tokens(run) * shape.n_embd)


def _ram_overhead(shape: ModelShape, run: RunShape, places: list[int | None]) -> int:
    on_gpu = GPU_PROCESS_BYTES if any(place is not None for place in places) else 0
    return PROCESS_BYTES + TOKEN_BYTES * shape.n_vocab + CELL_BYTES * cells(run) * run.n_contexts + on_gpu


def _f32(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded
