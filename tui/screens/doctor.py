"""What ``appliance doctor`` finds, seen from the server."""

from __future__ import annotations

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from appliance.schemas.doctor import Diagnosis, Finding
from tui.client import ServerError
from tui.screens.section import Section

# Words and signs: the colour says it once more.
_SIGNS = {
    "ok": ("  ok     ", "$text-success"),
    "warning": ("! warning", "$text-warning"),
    "failed": ("X failed ", "$text-error"),
}
_NAME_WIDTH = 14


class DoctorScreen(Section):
    NAME = "doctor"
    BINDINGS = [
        Binding("r", "examine(False)", "Examine", id="doctor.run", tooltip="Look for what is wrong."),
        Binding(
            "s", "examine(True)", "With speed", id="doctor.speed", tooltip="Measure the default model's speed, too."
        ),
    ]

    def body(self) -> ComposeResult:
        with VerticalScroll():
            yield Static("Press r to examine the machine, the models and the server.", id="diagnosis")

    def action_examine(self, speed: bool) -> None:
        """Has the server examine itself."""
        self._say("Examining; to measure the speed takes up to a minute ..." if speed else "Examining ...")
        self._examine(speed)

    @work(exclusive=True)
    async def _examine(self, speed: bool) -> None:
        try:
            found = await self.tui.server.get(f"/admin/doctor?speed={str(speed).lower()}", Diagnosis, timeout_s=None)
        except ServerError as error:
            self._say(error.message)
        else:
            self._say(diagnosis_text(found))

    def _say(self, text: str | Content) -> None:
        self.query_one("#diagnosis", Static).update(text if isinstance(text, Content) else Content(text))


def diagnosis_text(found: Diagnosis) -> Content:
    """All findings, each with its remedy, and the verdict."""
    worst = {"ok": "All is well.", "warning": "There are warnings.", "failed": "Something has failed."}[found.status]
    return Content("\n").join([Content.styled(worst, "bold"), Content(), *map(_finding_text, found.findings)])


def _finding_text(finding: Finding) -> Content:
    sign, style = _SIGNS[finding.status]
    remedy = f"\n{' ' * (len(sign) + _NAME_WIDTH + 2)}-> {finding.remedy}" if finding.remedy else ""
    return Content.assemble((sign, style), f" {finding.name:{_NAME_WIDTH}} ", finding.message, remedy)
