"""The response cache for an administrator: what is in it, what it did, and taking answers out."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

from appliance.cache.administration import Selection
from appliance.cache.store import ResponseCache
from appliance.errors import InvalidRequest, ModelNotFound, ResponseCacheFailed
from appliance.schemas.cache import CacheContents, CachedAnswers, CacheStatus, Purged, PurgeRequest, Vacuumed
from appliance.service.cache_metrics import ResponseCacheMetrics
from appliance.service.catalog import Catalog


def cache_status(cache: ResponseCache, metrics: ResponseCacheMetrics) -> CacheStatus:
    counts = metrics.total()
    return CacheStatus(
        path=str(cache.path),
        used_bytes=cache.used_bytes,
        limit_bytes=cache.max_bytes,
        ttl_s=cache.ttl_s,
        problem=cache.problem,
        hits=counts.n_hits,
        joins=counts.n_joins,
        misses=counts.n_misses,
        bypasses=dict(counts.bypasses),
        evictions=cache.n_evicted,
        unkept=cache.n_unkept,
        unread=cache.n_unread,
        saved_tokens=counts.saved_tokens,
        saved_s=counts.saved_s,
    )


async def contents(cache: ResponseCache, metrics: ResponseCacheMetrics) -> CacheContents:
    """Raises ResponseCacheFailed."""
    with _sqlite_errors():
        groups = await cache.groups()
    return CacheContents(
        status=cache_status(cache, metrics),
        contents=[
            CachedAnswers(
                model=group.model,
                version=group.version,
                key=group.owner,
                answers=group.n_answers,
                tokens=group.n_tokens,
                oldest_s=group.oldest_s,
            )
            for group in groups
        ],
    )


async def purge(cache: ResponseCache, catalog: Catalog, request: PurgeRequest) -> Purged:
    """Raises InvalidRequest if nothing is chosen or a version isn't one, ResponseCacheFailed."""
    is_chosen = any(value is not None for value in (request.model, request.key, request.older_than_s))
    if not is_chosen and not request.all:
        raise InvalidRequest("say which answers, by model, key or older_than_s; or say all")
    if is_chosen and request.all:
        raise InvalidRequest("say either which answers, or all", param="all")
    created_before_s = None if request.older_than_s is None else time.time() - request.older_than_s
    with _sqlite_errors():
        model, version = (None, None) if request.model is None else await _meant(cache, catalog, request.model)
        selection = Selection(model, version, owner=request.key, created_before_s=created_before_s)
        return Purged(purged=await cache.purge(selection))


async def _meant(cache: ResponseCache, catalog: Catalog, reference: str) -> tuple[str, str | None]:
    """Name and version, as answers are stored with them. Both may have left models.lock, and answers have not."""
    name, at, wanted = reference.partition("@")
    if not name or (at and not wanted):
        raise InvalidRequest(f"{reference!r} is no model: want NAME or NAME@VERSION", param="model")
    try:
        entry = catalog.entry(name)
    except ModelNotFound:
        entry = None
    name = entry.name if entry is not None else name
    if not wanted:
        return name, None
    if entry is not None:
        with contextlib.suppress(ModelNotFound):
            return name, entry.version(wanted).short
    stored = [group.version for group in await cache.groups() if group.model == name]
    found = {version for version in stored if version.startswith(wanted) or wanted.startswith(version)}
    if len(found) > 1:
        raise InvalidRequest(f"{reference} means several: {', '.join(sorted(found))}", param="model")
    return name, found.pop() if found else wanted


async def vacuum(cache: ResponseCache) -> Vacuumed:
    """Raises ResponseCacheFailed."""
    with _sqlite_errors():
        before, after = await cache.vacuum()
    return Vacuumed(before_bytes=before, after_bytes=after)


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ResponseCacheFailed(f"the response cache can't be worked with at the moment: {error}") from None
