"""Says that the server doesn't answer, and when it is tried again."""

from __future__ import annotations

from textual.widgets import Static

from tui.snapshot import Connection


class Banner(Static):
    """Hidden while all is well."""

    def show(self, connection: Connection) -> None:
        self.set_class(connection.problem is not None, "-visible")
        if connection.problem is None:
            return
        retry = f" Trying again in {connection.retry_in_s:.0f} s." if connection.retry_in_s is not None else ""
        self.update(f"! {connection.problem}{retry}")
