"""All that is known of one version of a model."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from appliance.schemas.admin import EngineStatus, ModelStatus, Version
from tui.figures import count_text, duration_text, printable, size_text, tokens_text
from tui.widgets.plan import memory_text

_BAR_WIDTH = 30


class ModelDetails(Static):
    def show(self, version: Version | None) -> None:
        """None: none is chosen."""
        self.update(details_text(version) if version is not None else Content("models.lock names no model."))


def details_text(version: Version) -> Content:
    """What it is, and what it does."""
    title = Content.assemble((key_of(version), "bold"), "  ", role(version))
    parts = [title, Content(printable(version.description)), Content(_nature(version))]
    if version.problem is not None:
        parts.append(Content.styled(f"! {printable(version.problem)}", "$text-warning"))
    if version.status is not None:
        parts += _activity(version.status)
    return Content("\n").join(part for part in parts if part.plain)


def key_of(version: Version) -> str:
    """NAME@VERSION."""
    return printable(f"{version.name}@{version.version}")


def role(version: Version) -> str:
    """What it is to requests that name no version, or no model at all."""
    words = [("default", version.is_default), ("current", version.is_current and not version.is_default)]
    words += [("previous", version.is_previous), ("pinned", version.is_pinned)]
    return ", ".join(word for word, holds in words if holds)


def _nature(version: Version) -> str:
    parts = [version.quantization]
    if not version.may_write_text:
        parts.insert(0, f"{version.kind} model")
    if version.size_bytes is not None:
        parts.append(size_text(version.size_bytes))
    if version.n_params is not None:
        parts.append(_params(version.n_params))
    if version.n_ctx_train is not None:
        parts.append(f"trained for {tokens_text(version.n_ctx_train)} tokens of context")
    if version.kl_divergence is not None:
        parts.append(f"KL divergence {version.kl_divergence:.4f} nat a token")
    parts.append(f"licence {version.license}")
    if version.aliases:
        parts.append(f"also called {', '.join(version.aliases)}")
    return printable(", ".join(parts))


def _params(n: int) -> str:
    return f"{n / 1e9:.1f} billion parameters" if n >= 1e9 else f"{n / 1e6:.0f} million parameters"


def _activity(status: ModelStatus) -> list[Content]:
    parts = []
    if status.state == "loading":
        parts.append(Content(f"loading {_bar(status.load_ratio or 0.0)}"))
    if status.error is not None:
        retry = f" It is tried again in {duration_text(status.retry_in_s)}." if status.retry_in_s else ""
        parts.append(Content.styled(f"! {printable(status.error)}.{retry}", "$text-error"))
    if status.requests_waiting:
        n = count_text(status.requests_waiting, "request")
        verb = "waits" if status.requests_waiting == 1 else "wait"
        parts.append(Content.styled(f"{n} {verb} for it to be loaded", "$text-warning"))
    if status.engine is not None:
        parts.append(Content(f"{count_text(status.requests, 'open request')}; {_engine(status.engine)}"))
        parts.append(memory_text(status.engine.memory))
        parts += [Content.styled(f"- {printable(reason)}", "$text-muted") for reason in status.engine.reasons]
    return parts


def _engine(engine: EngineStatus) -> str:
    slots = f", {count_text(engine.slots, 'slot')}" if engine.slots is not None else ""
    kv = engine.kv_cache
    used = f", {kv.used_tokens} of {kv.total_tokens} in use" if kv is not None else ""
    return f"context of {engine.n_ctx} tokens{used}{slots}, on {printable(engine.device or 'an unknown device')}"


def _bar(ratio: float) -> str:
    n_full = round(_BAR_WIDTH * min(1.0, max(0.0, ratio)))
    return f"[{'#' * n_full}{'.' * (_BAR_WIDTH - n_full)}] {ratio:.0%}"
