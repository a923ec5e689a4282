"""How llama.cpp says that there is no memory: in words, since it has no code for it."""

from __future__ import annotations

import re

# ggml's words for a buffer on any device, then the system's, C++'s and CUDA's.
_WORDS = re.compile(
    r"(failed|unable) to (allocate|reserve)|(out of|insufficient|cannot allocate) memory|bad_alloc|cudaMalloc failed",
    re.IGNORECASE,
)


def is_out_of_memory(line: str) -> bool:
    """Whether an error message says so."""
    return _WORDS.search(line) is not None
