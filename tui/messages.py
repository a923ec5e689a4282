"""What the poller and the screens tell the app."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from tui.snapshot import Snapshot


@dataclass
class SnapshotReceived(Message):
    """A newer snapshot; an older one that was not looked at yet is of no interest any more."""

    snapshot: Snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SnapshotReceived)
