"""Shows long work on stderr: bars with speed and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

# Between two lines about the same stage where there is no terminal.
LINE_INTERVAL_S = 10.0


class TerminalReport:
    """A :class:`appliance.models.report.Report` for people."""

    @contextmanager
    def stage(self, title: str, total: int, *, is_bytes: bool = False) -> Iterator[Callable[[int], None]]:
        from rich import progress

        amount = (
            (progress.DownloadColumn(), progress.TransferSpeedColumn())
            if is_bytes
            else (progress.TaskProgressColumn(),)
        )
        columns = (progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), *amount)
        from rich.console import Console

        with progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total or None)  # None: it shows that it works
            yield lambda n: bars.advance(task, n)
            bars.update(task, total=max(total, 1), completed=max(total, 1))


class LineReport:
    """The same for log files and programs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    @contextmanager
    def stage(self, title: str, total: int, *, is_bytes: bool = False) -> Iterator[Callable[[int], None]]:
        from rich.filesize import decimal

        _say(f"{title} ({decimal(total)})" if is_bytes else title)
        started = said = self._clock()
        done, lock = 0, Lock()

        def advance(n: int) -> None:
            nonlocal done, said
            with lock:
                done += n
                now = self._clock()
                if now - said < LINE_INTERVAL_S:
                    return
                said = now
                rate = done / (now - started)
                left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
                speed = f" at {decimal(int(rate))}/s" if is_bytes else ""
                _say(f"  {title}: {100 * done // max(total, 1)} %{speed}{left}")

        yield advance


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def report() -> TerminalReport | LineReport:
    return TerminalReport() if sys.stderr.isatty() else LineReport()
