"""Writes LoRA adapters for a model's file: as large as trained ones, with random numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from appliance.engine.messages import AdapterConfig
from appliance.files import sha256_of

# What PEFT adapts of a Llama unless it is told otherwise.
_TARGETS = re.compile(r"blk\.\d+\.attn_(q|v)\.weight")


def write_adapter(base: Path, path: Path, *, seed: int, rank: int = 8, strength: float = 0.02) -> AdapterConfig:
    """The adapter, named as its file. ``strength``: how large what it adds to a projection of numbers about 1 is."""
    reader = GGUFReader(base)
    architecture = reader.fields["general.architecture"].contents()
    numbers = np.random.default_rng(seed)
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in reader.tensors:
        if _TARGETS.fullmatch(tensor.name) is None:
            continue
        n_in, n_out = map(int, tensor.shape)
        a = numbers.standard_normal((rank, n_in)) / np.sqrt(n_in)
        b = numbers.standard_normal((n_out, rank)) * strength / np.sqrt(rank)
        for part, values in (("a", a), ("b", b)):
            writer.add_tensor(f"{tensor.name}.lora_{part}", values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AdapterConfig(path.stem, str(path), sha256_of(path))
