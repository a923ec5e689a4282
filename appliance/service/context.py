"""Who asks, since when, and what came of it: filled in on the way, read by the log and the metrics at the end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What a request says of caches, in the terms of RFC 9111."""

    no_cache: bool = False
    no_store: bool = False
    max_age_s: float | None = None
    only_if_cached: bool = False


@dataclass(slots=True)
class RequestContext:
    """``arrived_at`` is a time of the event loop's clock. ``key`` is a key's name, never the key."""

    request_id: str
    arrived_at: float
    key: str = "-"
    # Keys with the same scope may share computed prefixes and stored answers.
    scope: str = ""
    # Whose share of the engine the request counts against, and how large that is.
    tenant: str = ""
    weight: float = 1.0
    cache_control: CacheControl = CacheControl()
    model: str = "-"
    n_prompt: int = 0
    n_completion: int = 0
    n_cached: int = 0
    ttft_s: float | None = None
    # What the response cache did: see service.answers.
    cache: str = "-"
    outcome: str = "-"
