"""Says that the server doesn't answer, when it is tried again, and how old is what is shown."""

from __future__ import annotations

import time

from textual.widgets import Static

from tui.snapshot import Snapshot


class Banner(Static):
    """Hidden while all is well."""

    DEFAULT_CSS = """
    Banner { height: auto; display: none; background: $error; color: $text; padding: 0 1; }
    Banner.-visible { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, snapshot: Snapshot) -> None:
        connection = snapshot.connection
        self.set_class(connection.problem is not None, "-visible")
        if connection.problem is None:
            return
        retry = f" Trying again in {connection.retry_in_s:.0f} s." if connection.retry_in_s is not None else ""
        age = ""
        if snapshot.status is not None:
            age = f" What is shown is of {time.strftime('%H:%M:%S', time.localtime(snapshot.status.time_s))}."
        self.update(f"! {connection.problem}{retry}{age}")
