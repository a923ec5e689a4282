"""The line at the top: where one is, where one can go, and which server it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from tui.sections import SECTIONS, SectionInfo

if TYPE_CHECKING:
    from tui.app import ApplianceApp


class Navigation(Horizontal):
    """One line; all sections, one for API keys among them, fit in 80 cells."""

    DEFAULT_CSS = """
    Navigation { height: 1; background: $panel; }
    Navigation > _Entry { width: auto; }
    Navigation > _Entry:hover { background: $boost; text-style: underline; }
    Navigation > _Entry.-current { text-style: bold; background: $primary; color: $text; }
    Navigation > #where { width: 1fr; display: none; text-align: right; padding: 0 1; color: $text-muted; }
    """

    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        app = cast("ApplianceApp", self.app)
        for section in SECTIONS:
            key = app.key_text(f"go.{section.name}", section.key)
            yield _Entry(section, key, is_current=section.name == self._current)
        yield Static(app.server.url, id="where", markup=False)


class _Entry(Static):
    def __init__(self, section: SectionInfo, key: str, *, is_current: bool) -> None:
        label = f"[{section.title}]" if is_current else section.title  # not told by the colour alone
        super().__init__(f" {key.upper()} {label}", markup=False, classes="-current" if is_current else "")
        self._section = section
        self.tooltip = section.help

    async def on_click(self) -> None:
        await self.run_action(f"app.go('{self._section.name}')")
