"""What is said under a question while nothing has come yet."""

from __future__ import annotations

from appliance.schemas.admin import RequestStatus
from tui.chat.models import ModelInfo
from tui.chat.turn import Turn


def waiting_text(turn: Turn, model: ModelInfo | None, request: RequestStatus | None) -> str:
    """``model`` is the one that was asked, ``request`` what the server says of this one."""
    since = f"({int(turn.waited_s)} s)"
    if (prefill := turn.prefill) is not None and prefill.n_prompt:
        ratio = prefill.n_computed / prefill.n_prompt
        return f"Reading the prompt: {prefill.n_computed:,} of {prefill.n_prompt:,} tokens, {ratio:.0%} {since}"
    if model is not None and model.load_ratio is not None:
        return f"Loading {model.name}: {model.load_ratio:.0%} {since}"
    if request is not None and request.queue_place is not None:
        return f"Waiting in the queue, place {request.queue_place} {since}"
    return f"Waiting for the first token {since}"
