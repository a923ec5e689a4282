"""The line above the conversation: which model, how it is set, and how full its context is."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from tui.chat.conversation import Conversation
from tui.chat.figures import ContextUse
from tui.chat.models import ModelInfo
from tui.figures import cut, printable

BAR_CELLS = 10
_NEARLY_FULL = 0.9


class StatusLine(Static):
    DEFAULT_CSS = (
        "StatusLine { height: 1; padding: 0 2; background: $panel; text-overflow: ellipsis; text-wrap: nowrap; }"
    )

    def show(self, conversation: Conversation, model: ModelInfo | None, use: ContextUse) -> None:
        content = status_text(conversation, model, use)
        if content != self.content:
            self.update(content)


def status_text(conversation: Conversation, model: ModelInfo | None, use: ContextUse) -> Content:
    parts = [_model_text(conversation, model), _context_text(use)]
    settings = [f"{name} {value}" for name, value in conversation.sampling.items()]
    if conversation.system.strip():
        settings.insert(0, "system prompt")
    if settings:
        parts.append(Content.styled(", ".join(settings), "$text-muted"))
    return Content("  ").join(parts)


def _model_text(conversation: Conversation, model: ModelInfo | None) -> Content:
    name = model.name if model is not None else conversation.model or "the server's default"
    state = f" ({cut(printable(model.state), 40)})" if model is not None and model.state else ""
    return Content.assemble((printable(name), "bold"), state)


def _context_text(use: ContextUse) -> Content:
    n_ctx = f"{use.n_ctx:,}" if use.n_ctx else "?"
    if use.ratio is None:
        used = "-" if use.used_tokens is None else f"{use.used_tokens:,}"
        return Content(f"context {used} / {n_ctx}")
    filled = round(use.ratio * BAR_CELLS)
    bar = "█" * filled + "░" * (BAR_CELLS - filled)
    is_tight = use.ratio >= _NEARLY_FULL
    text = f"{bar} {use.used_tokens:,} / {n_ctx} ({use.ratio:.0%})" + (" ! nearly full" if is_tight else "")
    return Content.assemble("context ", (text, "$text-warning" if is_tight else ""))
