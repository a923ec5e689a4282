"""What gateway and engine tell each other of computed prefixes on disk."""

from __future__ import annotations

import msgspec


class WarmTierConfig(msgspec.Struct, frozen=True):
    """Where computed prefixes are kept on disk, and how many bytes of all models together."""

    folder: str
    max_bytes: int
    model_sha256: str


class WarmTierCounts(msgspec.Struct, frozen=True, array_like=True):
    """Computed prefixes on disk since the engine was loaded.

    ``n_saved`` were written and ``n_unsaved`` could not be; ``n_restored`` were read and used, with
    ``n_tokens_restored`` tokens. ``rejected`` files by the reason why they were not used. ``used_bytes`` is what all
    models' files take together, as this engine saw it last.
    """

    n_saved: int = 0
    n_unsaved: int = 0
    n_restored: int = 0
    n_tokens_restored: int = 0
    rejected: dict[str, int] = {}
    used_bytes: int = 0
