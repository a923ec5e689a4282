"""Chooses what fits: layers on each GPU, the context, experts in RAM. What an operator chose is never changed."""

from __future__ import annotations

import msgspec

from appliance.hardware.estimate import RunShape
from appliance.hardware.memory_use import MemoryUse
from appliance.hardware.shape import ModelShape


class Room(msgspec.Struct, frozen=True):
    """Memory that a model may take. A GPU that ``is_unified`` takes it from RAM."""

    device: str
    free_bytes: int
    is_unified: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """What an operator chose; None means automatic."""

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    n_seq_max: int = 1
    n_batch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    n_ctx_default: int = 8192


class Fit(msgspec.Struct, frozen=True):
    """How to run a model, what it then takes, and why: a sentence for each automatic decision."""

    run: RunShape
    memory: MemoryUse
    reasons: tuple[str, ...] = ()


def fit(shape: ModelShape, wanted: Wanted, rooms: tuple[Room, ...], *, repacks: bool = True) -> Fit:
    """The fastest way to run a model that fits into ``rooms``: one for RAM, one for each GPU in llama.cpp's order.

    Raises:
        DoesNotFit: with the numbers, and the largest setting that would fit.
    """
    raise NotImplementedError


def step_down(
    shape: ModelShape, wanted: Wanted, fitted: Fit, rooms: tuple[Room, ...], *, repacks: bool = True
) -> Fit | None:
    """The next smaller way to run it, after an out-of-memory; None when nothing automatic is left to lower."""
    raise NotImplementedError
