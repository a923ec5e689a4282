"""The wire types of ``/admin/kv-disk``."""

from __future__ import annotations

from pydantic import BaseModel


class KVDiskStatus(BaseModel):
    """Computed prefixes on disk: the files of all models, and what the engines that run did with theirs.

    ``limit_bytes`` 0: none are kept. ``unsaved`` could not be written. ``rejected``: how many were not used, by the
    reason.
    """

    folder: str
    files: int
    used_bytes: int
    limit_bytes: int
    saved: int
    unsaved: int
    restored: int
    restored_tokens: int
    rejected: dict[str, int]


class KVFilesPurged(BaseModel):
    files: int
    used_bytes: int
