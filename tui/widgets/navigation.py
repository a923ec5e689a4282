"""The line at the top: where one is, and where one can go."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from tui.sections import SECTIONS, SectionInfo


class Navigation(Horizontal):
    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        for section in SECTIONS:
            yield _Entry(section, is_current=section.name == self._current)


class _Entry(Static):
    def __init__(self, section: SectionInfo, *, is_current: bool) -> None:
        label = f"[{section.title}]" if is_current else section.title  # not told by the colour alone
        super().__init__(f"{section.key.upper()} {label}", markup=False, classes="-current" if is_current else "")
        self._section = section
        self.tooltip = section.help

    async def on_click(self) -> None:
        await self.run_action(f"app.go('{self._section.name}')")
