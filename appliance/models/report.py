"""How long work tells that it goes on: the command line shows it, tests and programs are silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Report(Protocol):
    def stage(self, title: str, total: int, *, is_bytes: bool = False) -> AbstractContextManager[Advance]:
        """Work of ``total`` units, 0 if nobody can tell. What it gives is called with how many more are done, from any
        thread.
        """


class Silent:
    @contextmanager
    def stage(self, title: str, total: int, *, is_bytes: bool = False) -> Iterator[Advance]:
        yield lambda n: None
