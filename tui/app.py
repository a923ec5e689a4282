"""The app: one poller, the sections, and what they have in common."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from tui.client import Server, Target
from tui.messages import SnapshotReceived
from tui.poller import Poller
from tui.screens.section import Section
from tui.sections import SECTIONS
from tui.snapshot import Snapshot


class ApplianceApp(App[None]):
    TITLE = "LLM appliance"
    CSS_PATH = "app.tcss"
    MODES = {section.name: section.make for section in SECTIONS}
    DEFAULT_MODE = SECTIONS[0].name
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "show_help_panel", "Help", id="help", tooltip="Show the keys of this section, or hide them."),
        *(
            Binding(
                section.key,
                f"go('{section.name}')",
                section.title,
                id=f"go.{section.name}",
                tooltip=section.help,
                show=False,
            )
            for section in SECTIONS
        ),
        Binding("ctrl+q", "quit", "Quit", id="quit", tooltip="Leave; the server goes on.", priority=True),
    ]

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.server = Server(target)
        self.poller = Poller(self.server, self._publish)

    @property
    def snapshot(self) -> Snapshot:
        """The latest."""
        return self.poller.snapshot

    def on_mount(self) -> None:
        self.call_after_refresh(self._start)  # what is on the screen comes first

    def _start(self) -> None:
        self.run_worker(self.poller.run(), group="poller", exclusive=True)

    async def on_unmount(self) -> None:
        await self.server.close()

    async def action_go(self, name: str) -> None:
        """Shows a section."""
        await self.switch_mode(name)

    def on_snapshot_received(self, message: SnapshotReceived) -> None:
        section = self.section
        if section is not None:
            section.update(message.snapshot)

    @property
    def section(self) -> Section | None:
        """The one that is shown, also below a dialog."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Section)), None)

    def begin(self, section: Section) -> None:
        """A section has come to the front: it gets what it needs."""
        self.poller.needs = section.NEEDS
        self.poller.hurry()
        section.update(self.snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        self.post_message(SnapshotReceived(snapshot))


def run(target: Target) -> None:
    """Until the user leaves."""
    ApplianceApp(target).run()
