"""The machine and the work it does, at a glance."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from tui.dashboard.machine import gpu_lines, machine_lines
from tui.dashboard.memory import memory_lines
from tui.dashboard.work import work_lines
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.gauges import Gauges, Line


class DashboardScreen(Section):
    NAME = "dashboard"
    NEEDS = frozenset({Part.HISTORY, Part.HARDWARE})
    DEFAULT_CSS = """
    DashboardScreen #panels { layout: grid; grid-size: 1; grid-rows: auto; height: 1fr; }
    DashboardScreen.-wide #panels { grid-size: 2; grid-gutter: 0 1; }
    DashboardScreen .column { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: tuple[object, object] = (None, None)

    def body(self) -> ComposeResult:
        with VerticalScroll(id="panels"):
            with Vertical(classes="column"):
                yield Gauges("Work, last 10 minutes", id="work")
                yield Gauges("Memory of models", id="memory")
            with Vertical(classes="column"):
                yield Gauges("Machine", id="machine")
                yield Gauges("GPUs", id="gpus")

    def show(self, snapshot: Snapshot) -> None:
        history, hardware = self._seen
        if snapshot.status is None or (snapshot.history is history and snapshot.hardware is hardware):
            return  # the curves come every other time, and the rest with them: what is idle must cost nothing
        self._seen = snapshot.history, snapshot.hardware
        self._show("work", work_lines(snapshot))
        self._show("memory", memory_lines(snapshot))
        self._show("machine", machine_lines(snapshot))
        self._show("gpus", gpu_lines(snapshot))

    def _show(self, name: str, lines: tuple[Line, ...]) -> None:
        self.query_one(f"#{name}", Gauges).show(lines)
