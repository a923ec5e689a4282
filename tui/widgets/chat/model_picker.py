"""Choosing a model. One that isn't loaded is loaded by asking it."""

from __future__ import annotations

from textual.content import Content

from tui.chat.models import ModelInfo, models
from tui.figures import cut, printable
from tui.snapshot import Snapshot
from tui.widgets.chat.dialogs import Choose

# The id of the entry that asks for no model.
DEFAULT = ""
_MAX_STATE_CHARS = 60


def model_picker(snapshot: Snapshot, chosen: str | None, *, with_default: bool = True) -> Choose:
    """Its answer is a model's name, DEFAULT, or None if nothing was chosen."""
    found = models(snapshot)
    default = next((model.name for model in found if model.is_default), None)
    options = [(model.name, _line(model)) for model in found]
    if with_default:
        name = f" ({printable(default)})" if default is not None else ""
        options.insert(0, (DEFAULT, Content(f"The server's default{name}")))
    title = "Which model answers?" if found else "Which model answers? The server hasn't said yet which there are."
    return Choose(title, options, chosen or DEFAULT)


def _line(model: ModelInfo) -> Content:
    state = cut(printable(model.state), _MAX_STATE_CHARS)
    if model.state == "stored":
        state = "not loaded: asking loads it"
    details = f", {model.details}" if model.details else ""
    return Content.assemble((printable(model.name), "bold"), f"  {state}", (details, "$text-muted"))
