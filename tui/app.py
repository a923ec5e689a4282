"""The app: one poller, the sections, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.client import Server, Target
from tui.keymap import problem_of
from tui.messages import SnapshotReceived
from tui.palette import BindingCommands
from tui.poller import Poller
from tui.preferences import Preferences, PreferencesError, default_path, load, save_theme
from tui.screens.section import Section
from tui.sections import SECTIONS
from tui.snapshot import Snapshot
from tui.themes import HIGH_CONTRAST


class ApplianceApp(App[None]):
    TITLE = "LLM appliance"
    CSS_PATH = "app.tcss"
    MODES = {section.name: section.make for section in SECTIONS}
    DEFAULT_MODE = SECTIONS[0].name
    COMMANDS = App.COMMANDS | {BindingCommands}
    # There is room for where the server is beside the sections' names.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help", id="help", tooltip="Show the keys of this section, or hide them."),
        Binding(
            "ctrl+p",
            "command_palette",
            "Commands",
            id="palette",
            tooltip="Find what can be done, and do it.",
            show=False,
            priority=True,
        ),
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

    def __init__(self, target: Target, preferences: Preferences | None = None) -> None:
        """Without ``preferences``, nothing is remembered. Raises :class:`PreferencesError` for an unknown theme."""
        super().__init__()
        self.preferences = preferences or Preferences()
        self.register_theme(HIGH_CONTRAST)
        self._kept_theme = self.preferences.theme or self.theme
        if (theme := self.preferences.theme) is not None:
            if theme not in self.available_themes:
                known = ", ".join(sorted(self.available_themes))
                raise PreferencesError(f'{self.preferences.path}: theme "{theme}" is not known; there are {known}.')
            self.theme = theme
        self.set_keymap(self.preferences.keys)
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

    def action_help(self) -> None:
        """Shows the keys, or hides them."""
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What no key does."""
        yield SystemCommand("Theme", "Choose the colours; they are kept.", self.action_change_theme)
        yield SystemCommand("Picture", "Save the screen as an SVG picture.", self.deliver_screenshot)

    def key_text(self, name: str, declared: str) -> str:
        """The key that does what has this id, as it is shown."""
        key = self.preferences.keys.get(name, declared).partition(",")[0].strip()
        return self.get_key_display(Binding(key, ""))

    def watch_theme(self, theme: str) -> None:
        """A theme that was chosen is there again at the next start."""
        path = self.preferences.path
        if path is None or theme == self._kept_theme:
            return
        self._kept_theme = theme
        try:
            save_theme(path, theme)
        except PreferencesError as error:
            self.notify(str(error), severity="error", markup=False)

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
    """Until the user leaves. Raises :class:`PreferencesError`."""
    preferences = load(default_path())
    if (problem := problem_of(preferences.keys)) is not None:
        raise PreferencesError(f"{preferences.path}: {problem}")
    ApplianceApp(target, preferences).run()
