"""``Cache-Control`` of requests, ``X-Cache`` and ``Age`` of answers (RFC 9111 sections 5.1 and 5.2.1)."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.service.answers import HIT, Source, of_several
from appliance.service.context import CacheControl

EXPOSED = ("X-Request-ID", "X-Cache", "Age")


def parse(header: str) -> CacheControl:
    """What the header says; directives that mean nothing to a cache of answers are ignored, as the RFC wants.

    An age that is no number of seconds counts as 0: when in doubt, the answer is computed. The first of several counts.
    """
    directives: dict[str, str] = {}
    for directive in header.lower().split(","):
        name, _, value = directive.strip().partition("=")
        directives.setdefault(name.strip(), value.strip().strip('"'))
    max_age = directives.get("max-age")
    return CacheControl(
        no_cache="no-cache" in directives,
        no_store="no-store" in directives,
        max_age_s=None if max_age is None else float(max_age) if max_age.isascii() and max_age.isdigit() else 0.0,
        only_if_cached="only-if-cached" in directives,
    )


def headers(sources: Iterable[Source]) -> dict[str, str]:
    """Where the answer came from. Of several prompts, it is a hit if all are, as old as the oldest."""
    sources = list(sources)
    state = of_several([source.state for source in sources])
    found = {"X-Cache": state}
    if state == HIT:
        found["Age"] = str(int(max(source.age_s for source in sources)))
    return found
