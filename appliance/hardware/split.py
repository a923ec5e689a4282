"""Divides layers among several GPUs: neighbours stay together and the output head comes last, as llama.cpp has it."""

from __future__ import annotations

from bisect import bisect_right

from appliance.hardware.estimate import GPU_CONTEXT_BYTES, RunShape, gpu_compute, layers_on_gpus, on_gpu
from appliance.hardware.shape import ModelShape

# How often the span is halved in which the fullest GPU's share of its memory is looked for.
_N_HALVINGS = 8


def split_evenly(shape: ModelShape, run: RunShape, free_bytes: list[int]) -> tuple[float, ...]:
    """How many layers each GPU gets, so that the fullest one is as empty as can be; ``run``'s own split doesn't matter.

    ``free_bytes`` are the GPUs' in llama.cpp's order. If the layers don't fit, the last GPU gets the rest. Empty where
    there is nothing to divide.
    """
    n_layers = layers_on_gpus(len(shape.layers), run, len(free_bytes))
    if len(free_bytes) < 2 or n_layers == 0:
        return ()
    filler = _Filler(shape, run, n_layers, len(free_bytes))
    best, _ = filler.fill(free_bytes)
    low, high = 0.0, 1.0
    for _ in range(_N_HALVINGS):
        ratio = (low + high) / 2
        counts, fits = filler.fill([int(free * ratio) for free in free_bytes])
        if fits:
            best, high = counts, ratio
        else:
            low = ratio
    return tuple(map(float, best))


class _Filler:
    """Puts as many layers as fit on the first GPU, then on the next."""

    def __init__(self, shape: ModelShape, run: RunShape, n_layers: int, n_gpus: int) -> None:
        self._n_layers = n_layers
        self._sums = [0]
        for index in range(len(shape.layers) + 1 - n_layers, len(shape.layers) + 1):
            self._sums.append(self._sums[-1] + sum(on_gpu(shape, run, index)))
        self._fixed = {
            (is_first, has_head): GPU_CONTEXT_BYTES
            + gpu_compute(shape, run, n_gpus, is_first=is_first, has_head=has_head)
            for is_first in (True, False)
            for has_head in (True, False)
        }

    def fill(self, free_bytes: list[int]) -> tuple[list[int], bool]:
        """The GPUs' numbers of layers, and whether they fit."""
        counts: list[int] = []
        begin = 0
        for number, free in enumerate(free_bytes):
            end = self._end(begin, free, is_first=number == 0)
            counts.append(end - begin)
            begin = end
        n_left = self._n_layers - begin
        counts[-1] += n_left
        return counts, n_left == 0

    def _end(self, begin: int, free: int, *, is_first: bool) -> int:
        """The end of the longest run of layers from ``begin`` that fits."""
        if self._sums[-1] - self._sums[begin] + self._fixed[is_first, True] <= free:
            return self._n_layers
        room = self._sums[begin] + free - self._fixed[is_first, False]
        return max(begin, min(bisect_right(self._sums, room) - 1, self._n_layers - 1))
