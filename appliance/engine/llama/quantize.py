"""``python -m appliance.engine.llama.quantize``: writes a GGUF file in another type, as one file (see ``job``).

The same input gives the same bytes on every run and for any number of threads.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np

from appliance.engine.llama.job import LlamaLog, run_job, say_progress
from appliance.engine.llama.library import lib
from appliance.errors import ConfigError

_PREFIX = "LLAMA_FTYPE_"
_TENSOR = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
# What tensors of an importance matrix are called, behind the name of the tensor that they belong to.
_SUMS, _COUNTS = ".in_sum2", ".counts"
# Rows of one tensor that are in memory at the same time; llama.cpp's own limit is 8 GiB.
_MAX_BUFFER_BYTES = 1 << 30


def file_types() -> dict[str, int]:
    """llama.cpp's ``llama_ftype`` by the names that its tools use: F16, Q4_0, Q4_K_M."""
    names = (name for name in vars(lib) if name.startswith(_PREFIX) and name != _PREFIX + "GUESSED")
    return {
        name.removeprefix(_PREFIX).removeprefix("MOSTLY_").removeprefix("ALL_"): getattr(lib, name) for name in names
    }


def _quantize(request: dict[str, Any]) -> None:
    params = lib.llama_model_quantize_default_params()
    params.nthread = request["n_threads"]
    params.max_buf_size = _MAX_BUFFER_BYTES
    params.allow_requantize = request["allow_requantize"]
    if request["file_type"] is None:
        params.only_copy = True
    else:
        params.ftype = _known(file_types(), request["file_type"], "quantization")
    # Kept until llama.cpp has returned.
    overrides = _tensor_types(request["tensor_types"])
    if overrides is not None:
        params.tt_overrides = overrides
    imatrix = _ImportanceMatrix(request["imatrix"]) if request["imatrix"] is not None else None
    if imatrix is not None:
        params.imatrix = imatrix.entries
    log = LlamaLog(_show_progress)
    status = lib.llama_model_quantize(request["source"].encode(), request["target"].encode(), ctypes.byref(params))
    if status != 0:
        raise ConfigError(f"llama.cpp can't write {request['source']} as {request['file_type']}: {log.warnings}")


def _tensor_types(patterns: dict[str, str]) -> Any:
    """As a list that ends with an entry without a pattern."""
    if not patterns:
        return None
    from gguf import GGMLQuantizationType

    types = {kind.name: int(kind) for kind in GGMLQuantizationType}
    array = (lib.llama_model_tensor_override * (len(patterns) + 1))()
    for override, (pattern, name) in zip(array, patterns.items(), strict=False):
        override.pattern = pattern.encode()
        override.type = _known(types, name, "tensor type")
    return array


class _ImportanceMatrix:
    """How much each column of a tensor matters, as llama.cpp's ``llama-imatrix`` writes it into a GGUF file.

    For each matrix of a tensor: the sums of the squared inputs of its columns, divided by how many there were
    (tools/quantize/quantize.cpp, ``load_imatrix``).
    """

    def __init__(self, path: str) -> None:
        """Raises ConfigError if the file holds none."""
        from gguf import GGUFReader

        try:
            tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
        except (ValueError, IndexError, OSError) as error:
            raise ConfigError(f"{path} is no importance matrix: {error}") from None
        names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
        if not names or any(name + _COUNTS not in tensors for name in names):
            raise ConfigError(f"{path} is no importance matrix: want tensors *{_SUMS} and *{_COUNTS}")
        # Ends with an entry without a name. The numbers are kept: llama.cpp gets their address.
        self.entries = (lib.llama_model_imatrix_data * (len(names) + 1))()
        self._values = [_per_input(tensors[name + _SUMS], tensors[name + _COUNTS]) for name in names]
        for entry, name, values in zip(self.entries, names, self._values, strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size


def _per_input(sums: Any, counts: Any) -> Any:
    matrices = np.asarray(sums, np.float32).reshape(np.size(counts), -1)
    divisors = np.asarray(counts, np.float32).reshape(-1, 1)
    ones = np.ones_like(matrices)  # for experts that were never asked
    return np.ascontiguousarray(np.divide(matrices, divisors, out=ones, where=divisors > 0)).ravel()


def _known(numbers: dict[str, int], name: str, what: str) -> int:
    if name.upper() not in numbers:
        raise ConfigError(f"{name} is no {what} that llama.cpp knows; want one of {', '.join(sorted(numbers))}")
    return numbers[name.upper()]


def _show_progress(line: str) -> None:
    if match := _TENSOR.match(line):
        say_progress(int(match[1]), int(match[2]))


if __name__ == "__main__":
    run_job(_quantize)
