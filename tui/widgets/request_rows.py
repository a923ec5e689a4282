"""Requests as rows of a table."""

from __future__ import annotations

from appliance.schemas.admin import EndedRequest, RequestStatus
from tui.figures import clock_text, duration_text
from tui.widgets.rows import Cell, Column, Row, Tone

OPEN_COLUMNS = (
    Column("Model", min_width=8, max_width=14),
    Column("Key", min_width=6, max_width=10),
    Column("State", min_width=11),
    Column("Prompt", min_width=7, is_number=True),
    Column("Answer", is_number=True),
    Column("Speed", min_width=6, is_number=True),
    Column("Age", min_width=9, is_number=True),
    Column("Cache", min_width=6),
    Column("Id", max_width=80),
    Column("X-Request-ID", max_width=80),
)
RECENT_COLUMNS = (
    Column("Model", min_width=8, max_width=14),
    Column("Key", min_width=6, max_width=10),
    Column("Outcome", min_width=11, max_width=24),
    Column("Prompt", min_width=7, is_number=True),
    Column("Answer", is_number=True),
    Column("Queue", is_number=True),
    Column("TTFT", is_number=True),
    Column("Total", is_number=True),
    Column("Cache", min_width=6),
    Column("Ended", min_width=8),
    Column("Id", max_width=80),
    Column("X-Request-ID", max_width=80),
)
_STATES: dict[str, Tone] = {"waiting": "warning", "decode": "good"}
_OUTCOMES: dict[str, Tone] = {"stop": "", "length": "", "abort": "quiet"}


def open_row(request: RequestStatus) -> Row:
    """Of one that waits or runs."""
    place = f" #{request.queue_place}" if request.queue_place is not None else ""
    prompt = str(request.prompt_tokens)
    if request.prompt_tokens_computed < request.prompt_tokens:
        prompt = f"{request.prompt_tokens_computed}/{prompt}"
    cells = (
        Cell(request.model),
        Cell(request.key),
        Cell(f"{request.state}{place}", _STATES.get(request.state, "")),
        Cell(prompt),
        Cell(str(request.completion_pieces)),
        Cell(f"{request.tokens_per_s:.1f}/s" if request.tokens_per_s is not None else "-"),
        Cell(duration_text(request.age_s)),
        Cell(request.cache or "-"),
        Cell(request.id, "quiet"),
        Cell(request.request_id, "quiet"),
    )
    return Row(request.id, cells)


def recent_row(request: EndedRequest) -> Row:
    """Of one that has ended. Of its prompt, the tokens that weren't computed come first."""
    cached = f"{request.cached_tokens}+" if request.cached_tokens else ""
    cells = (
        Cell(request.model),
        Cell(request.key),
        Cell(request.outcome, _OUTCOMES.get(request.outcome, "bad")),
        Cell(f"{cached}{request.prompt_tokens - request.cached_tokens}"),
        Cell(str(request.completion_tokens)),
        Cell(_time(request.queue_s)),
        Cell(_time(request.ttft_s)),
        Cell(_time(request.e2e_s)),
        Cell(request.cache or "-"),
        Cell(clock_text(request.ended_s)),
        Cell(request.id, "quiet"),
        Cell(request.request_id, "quiet"),
    )
    return Row(request.id, cells)


def has_words(row: Row, words: list[str]) -> bool:
    """Whether each of ``words``, which are in lower case, is somewhere in it."""
    if not words:
        return True
    text = " ".join(cell.text for cell in row.cells).lower()
    return all(word in text for word in words)


def _time(seconds: float | None) -> str:
    return duration_text(seconds) if seconds is not None else "-"
