"""What the server does: tokens, requests, times and what its caches save."""

from __future__ import annotations

from appliance.schemas.admin import Latencies, Percentiles
from appliance.schemas.admin import Snapshot as Moment
from tui.dashboard.series import Series, latest, levels, rates, share, shares
from tui.snapshot import Snapshot
from tui.widgets.gauges import Curve, Gauge, Line, Note

_NOTHING = "-"


def work_lines(snapshot: Snapshot) -> tuple[Line, ...]:
    """Nothing before the server's first word."""
    if snapshot.status is None:
        return ()
    history, figures = snapshot.history, snapshot.status.latencies
    out = rates(history, lambda moment: moment.completion_tokens)
    computed = rates(history, lambda moment: moment.prompt_tokens)
    running = levels(history, lambda moment: moment.requests_running)
    waiting = levels(history, lambda moment: moment.requests_waiting)
    return (
        Gauge("Tokens out", _rate(out), Curve(out)),
        Gauge("Tokens in", _rate(computed), Curve(computed)),
        Gauge("Running", _count(running), Curve(running)),
        Gauge("Waiting", _count(waiting), Curve(waiting)),
        Note(f"Percentiles 50 / 90 / 99 of {_sample(figures)}:", "$text-muted"),
        Gauge("TTFT", _seconds(figures.ttft_s), Curve(levels(history, lambda moment: moment.ttft_p50_s))),
        Gauge("TPOT", _milliseconds(figures.tpot_s), Curve(levels(history, lambda moment: moment.tpot_p50_s))),
        *_cache_lines(snapshot, history),
    )


def _cache_lines(snapshot: Snapshot, history: tuple[Moment, ...]) -> tuple[Line, ...]:
    kv = levels(history, _kv_ratio)
    used = latest(kv)
    reused = share(history, _reused, _computed)
    hits = share(history, _hits, _misses)
    assert snapshot.status is not None
    is_on = snapshot.status.response_cache is not None
    return (
        Gauge("KV cache", _percent(used), Curve(kv, top=1.0), is_alarming=used is not None and used > 0.95),
        Gauge("Prefix reuse", _percent(reused), Curve(shares(history, _reused, _computed), top=1.0)),
        Gauge("Response cache", _percent(hits), Curve(shares(history, _hits, _misses), top=1.0))
        if is_on
        else Gauge("Response cache", "off"),
    )


def _kv_ratio(moment: Moment) -> float | None:
    return moment.kv_used_tokens / moment.kv_total_tokens if moment.kv_total_tokens else None


def _reused(moment: Moment) -> float:
    return moment.cached_tokens


def _computed(moment: Moment) -> float:
    return moment.prompt_tokens


def _hits(moment: Moment) -> float:
    return moment.response_cache_hits + moment.response_cache_joins


def _misses(moment: Moment) -> float:
    return moment.response_cache_misses


def _sample(figures: Latencies) -> str:
    return f"the latest {figures.n_requests} requests" if figures.n_requests else "the latest requests, if any come"


def _rate(series: Series) -> str:
    value = latest(series)
    return _NOTHING if value is None else f"{value:.1f}/s"


def _count(series: Series) -> str:
    value = latest(series)
    return _NOTHING if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0%}"


def _seconds(found: Percentiles | None) -> str:
    return _NOTHING if found is None else f"{found.p50:.2f} / {found.p90:.2f} / {found.p99:.2f} s"


def _milliseconds(found: Percentiles | None) -> str:
    if found is None:
        return _NOTHING
    return f"{1000 * found.p50:.0f} / {1000 * found.p90:.0f} / {1000 * found.p99:.0f} ms"
