"""Reads the headers of safetensors files. Format: https://huggingface.co/docs/safetensors"""

from __future__ import annotations

import json
from pathlib import Path

from appliance.errors import ConfigError

# The format's own limit.
_MAX_HEADER_BYTES = 100 << 20


def largest_tensor_bytes(folder: Path) -> int:
    """Of all safetensors files in a folder; 0 if there are none. Raises ConfigError if one is cut off or damaged."""
    return max((_largest(path) for path in sorted(folder.rglob("*.safetensors")) if path.is_file()), default=0)


def _largest(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if size < 8 or n_header > min(size - 8, _MAX_HEADER_BYTES):
            raise ConfigError(f"{path} is cut off or no safetensors file")
        try:
            header = json.loads(file.read(n_header))
            spans = [tuple(entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"]
            ends = [int(end) for _, end in spans]
            sizes = [int(end) - int(start) for start, end in spans]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            raise ConfigError(f"{path} has a damaged header") from None
    if max(ends, default=0) != size - 8 - n_header:
        raise ConfigError(
            f"{path} has {size} bytes, its header says {max(ends, default=0) + 8 + n_header}: it is cut off"
        )
    return max(sizes, default=0)
