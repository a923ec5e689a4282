"""How many bytes a model takes on each device, from its header's numbers and how it is run."""

from __future__ import annotations

import msgspec

from appliance.hardware.memory_use import MemoryUse
from appliance.hardware.shape import ModelShape


class RunShape(msgspec.Struct, frozen=True):
    """How a model is run.

    ``n_seq_max`` is llama.cpp's: sequences that run, are retained, or are kept aside. ``n_gpu_layers`` of the layers,
    counted from the last one, are on GPUs, the output head being the last; ``n_cpu_moe`` of the first layers keep their
    experts in RAM all the same; ``tensor_split`` has each GPU's part of the layers on GPUs.
    """

    n_ctx: int
    n_seq_max: int
    n_batch: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_gpu_layers: int = 0
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()


def estimate(shape: ModelShape, run: RunShape, gpus: tuple[str, ...] = (), repacks: bool = True) -> MemoryUse:
    """What each device would hold. ``gpus`` are the devices in llama.cpp's order.

    ``repacks``: whether the CPU is one that llama.cpp reorders weights for.
    """
    raise NotImplementedError
