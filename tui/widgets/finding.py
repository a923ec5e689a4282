"""What one check of the doctor found: a sign, the check's name, and a text that is wrapped beside them."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from appliance.schemas.doctor import Finding

# Words and signs: the colour says it once more.
_SIGNS = {
    "ok": ("  ok", "$text-success"),
    "warning": ("! warning", "$text-warning"),
    "failed": ("X failed", "$text-error"),
}
_WORST_FIRST = ("failed", "warning", "ok")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are alike in the order in which they came."""
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.status))


class FindingView(Horizontal):
    DEFAULT_CSS = """
    FindingView { height: auto; padding: 0 1; }
    FindingView > .sign { width: 10; }
    FindingView > .name { width: 16; padding-right: 1; }
    FindingView > Vertical { width: 1fr; height: auto; }
    FindingView .remedy { padding-left: 3; }
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self._finding = finding

    def compose(self) -> ComposeResult:
        finding = self._finding
        yield Static(Content.styled(*_SIGNS[finding.status]), classes="sign")
        yield Static(Content(finding.name), classes="name")
        with Vertical():
            yield Static(Content(finding.message))
            if finding.remedy:
                yield Static(Content(f"-> {finding.remedy}"), classes="remedy")
