"""What ``appliance doctor`` finds, seen from the server."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from appliance.schemas.doctor import Diagnosis
from tui.client import ServerError
from tui.screens.section import Section
from tui.widgets.finding import FindingView, worst_first

_VERDICTS = {
    "ok": ("All is well.", "bold $text-success"),
    "warning": ("There are warnings.", "bold $text-warning"),
    "failed": ("Something has failed.", "bold $text-error"),
}


class DoctorScreen(Section):
    NAME = "doctor"
    DEFAULT_CSS = """
    DoctorScreen #verdict { padding: 0 1; margin-bottom: 1; height: auto; }
    DoctorScreen #findings { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "examine(False)", "Examine", id="doctor.run", tooltip="Look for what is wrong."),
        Binding(
            "s", "examine(True)", "With speed", id="doctor.speed", tooltip="Measure the default model's speed, too."
        ),
        Binding("c", "copy", "Copy", id="doctor.copy", tooltip="Copy all findings as text."),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._found: Diagnosis | None = None

    def body(self) -> ComposeResult:
        yield Static("Press r to examine the machine, the models and the server.", id="verdict", markup=False)
        yield VerticalScroll(id="findings")

    def action_examine(self, speed: bool) -> None:
        """Has the server examine itself."""
        self._say(Content("Examining; to measure the speed takes up to a minute ..." if speed else "Examining ..."))
        self._examine(speed)

    def action_copy(self) -> None:
        if self._found is None:
            self.notify("Nothing was examined yet.", severity="warning")
            return
        self.app.copy_to_clipboard(diagnosis_text(self._found))
        self.notify("Copied the findings.")

    @work(exclusive=True)
    async def _examine(self, speed: bool) -> None:
        try:
            found = await self.tui.server.get(f"/admin/doctor?speed={str(speed).lower()}", Diagnosis, timeout_s=None)
        except ServerError as error:
            self._say(Content(error.message))
            return
        self._found = found
        self._say(Content.styled(*_VERDICTS[found.status]))
        findings = self.query_one("#findings", VerticalScroll)
        await findings.remove_children()
        await findings.mount_all(FindingView(finding) for finding in worst_first(found.findings))
        findings.scroll_home(animate=False)

    def _say(self, text: Content) -> None:
        self.query_one("#verdict", Static).update(text)


def diagnosis_text(found: Diagnosis) -> str:
    """The verdict and all findings, each with its remedy; for a mail or a ticket."""
    lines = [_VERDICTS[found.status][0]]
    for finding in worst_first(found.findings):
        lines.append(f"{finding.status}: {finding.name}: {finding.message}")
        if finding.remedy:
            lines.append(f"  -> {finding.remedy}")
    return "\n".join(lines)
