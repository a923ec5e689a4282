"""How full the response cache is, and what it did, as text; its answers as rows."""

from __future__ import annotations

from textual.content import Content

from appliance.schemas.cache import CachedAnswers, CacheStatus
from tui.figures import count_text, duration_text, printable, size_text
from tui.widgets.rows import Cell, Column, Row

COLUMNS = (
    Column("Model", min_width=12, max_width=24),
    Column("Version", max_width=12),
    Column("Key", min_width=8, max_width=20),
    Column("Answers", is_number=True),
    Column("Tokens", is_number=True),
    Column("Oldest", is_number=True),
)
_NAME_WIDTH = 13
_BAR_WIDTH = 20


def stats_text(status: CacheStatus) -> Content:
    """A line for each figure."""
    n_given = status.hits + status.joins
    n_asked = n_given + status.misses
    passed = ", ".join(f"{number} {reason}" for reason, number in sorted(status.bypasses.items()))
    kept = f"for {duration_text(status.ttl_s)}" if status.ttl_s is not None else "until room is needed"
    lines = [
        ("used", f"{_bar(status.used_bytes, status.limit_bytes)}  {_use(status)}"),
        ("not computed", f"{_bar(n_given, n_asked)}  of {count_text(n_asked, 'prompt')} since the start"),
        ("prompts", f"hits {status.hits}, joined {status.joins}, misses {status.misses}"),
        ("passed by", passed or "none"),
        ("saved", f"{count_text(status.saved_tokens, 'token')}, {duration_text(status.saved_s)} of computing"),
        ("given up", f"{status.evictions} evicted, {status.unkept} not kept, {status.unread} not read"),
        ("kept", f"{kept}, in {status.path}"),
    ]
    parts = [Content.assemble((f"{name:<{_NAME_WIDTH}}", "bold"), printable(text)) for name, text in lines]
    if status.problem is not None:
        parts.insert(0, Content.styled(f"! No answer can be kept: {printable(status.problem)}.", "$text-error"))
    return Content("\n").join(parts)


def group_key(group: CachedAnswers) -> str:
    """Of its row."""
    return f"{group.model}@{group.version} {group.key}"


def group_row(group: CachedAnswers, now_s: float) -> Row:
    """``now_s`` is the server's clock."""
    cells = (
        Cell(group.model),
        Cell(group.version, "quiet"),
        Cell(group.key),
        Cell(str(group.answers)),
        Cell(str(group.tokens)),
        Cell(duration_text(now_s - group.oldest_s)),
    )
    return Row(group_key(group), cells)


def _use(status: CacheStatus) -> str:
    return f"{size_text(status.used_bytes)} of {size_text(status.limit_bytes)}"


def _bar(part: int, whole: int) -> str:
    ratio = min(1.0, part / whole) if whole else 0.0
    n_full = round(_BAR_WIDTH * ratio)
    return f"[{'#' * n_full}{'.' * (_BAR_WIDTH - n_full)}] {f'{ratio:.0%}' if whole else '-':>4}"
