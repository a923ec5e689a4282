"""What an answer took and how it ended, in words, and how full the context is."""

from __future__ import annotations

from dataclasses import dataclass

from tui.chat.conversation import Answer, Conversation, Figures
from tui.figures import count_text, duration_text


def figures_text(answer: Answer) -> str:
    """One line; empty if nothing is known yet."""
    return " · ".join([*_end(answer), *_speed(answer.figures), *_tokens(answer.figures), *_cache(answer.figures)])


def _end(answer: Answer) -> list[str]:
    if answer.outcome == "stopped":
        return ["stopped"]
    if answer.outcome == "failed":
        return ["failed" if answer.is_empty else "broken off"]
    return ["cut off at the token limit"] if answer.finish_reason == "length" else []


def _speed(figures: Figures) -> list[str]:
    found = []
    # What comes from the cache comes as fast as it is read: no speed of the model.
    if figures.tokens_per_s and figures.cache != "hit":
        found.append(f"{figures.tokens_per_s:.1f} tokens/s")
    if figures.ttft_s is not None:
        found.append(f"first after {duration_text(figures.ttft_s)}")
    return found


def _tokens(figures: Figures) -> list[str]:
    if figures.completion_tokens is None:
        return []
    lasted = f" in {duration_text(figures.seconds)}" if figures.seconds is not None else ""
    if figures.prompt_tokens is None:
        return [f"{count_text(figures.completion_tokens, 'token')}{lasted}"]
    reused = f", {figures.cached_tokens:,} reused" if figures.cached_tokens and figures.cache != "hit" else ""
    return [f"{figures.prompt_tokens:,} + {figures.completion_tokens:,} tokens{lasted}{reused}"]


def _cache(figures: Figures) -> list[str]:
    if figures.cache is None:
        return []
    age = f", {duration_text(figures.cache_age_s)} old" if figures.cache_age_s is not None else ""
    return [f"response cache: {figures.cache}{age}"]


@dataclass(frozen=True, slots=True)
class ContextUse:
    """Tokens of the conversation against those of the model's context. None: not known."""

    used_tokens: int | None
    n_ctx: int | None

    @property
    def ratio(self) -> float | None:
        if self.used_tokens is None or not self.n_ctx:
            return None
        return min(1.0, self.used_tokens / self.n_ctx)


def context_use(conversation: Conversation, n_ctx: int | None) -> ContextUse:
    """Up to the latest answer whose tokens were counted."""
    for message in reversed(conversation.path):
        if isinstance(message, Answer) and (used := message.figures.context_tokens) is not None:
            return ContextUse(used, n_ctx)
    return ContextUse(None, n_ctx)
