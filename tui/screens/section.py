"""What all sections have in common: navigation, the banner of a lost server, and the footer with the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer

from tui.snapshot import Part, Snapshot
from tui.widgets.banner import Banner
from tui.widgets.navigation import Navigation

if TYPE_CHECKING:
    from tui.app import ApplianceApp


class Section(Screen[None]):
    """A subclass gives its ``body`` and brings that up to date in ``show``; ``NAME`` is that in SECTIONS."""

    NAME: ClassVar[str]
    # What it shows beside the status.
    NEEDS: ClassVar[frozenset[Part]] = frozenset()

    def compose(self) -> ComposeResult:
        yield Navigation(self.NAME)
        yield Banner()
        with Container(id="body"):
            yield from self.body()
        yield Footer()

    def body(self) -> ComposeResult:
        """Its widgets."""
        raise NotImplementedError

    def show(self, snapshot: Snapshot) -> None:
        """Brings its widgets up to date. Called with each new snapshot while it is shown, and when it is shown."""

    @property
    def tui(self) -> ApplianceApp:
        """The app, as what it is."""
        return cast("ApplianceApp", self.app)

    def on_screen_resume(self) -> None:
        self.tui.begin(self)

    def update(self, snapshot: Snapshot) -> None:
        if not (self.is_mounted and self.display):  # not yet, or its widgets are being removed already
            return
        self.query_one(Banner).show(snapshot)
        self.show(snapshot)
