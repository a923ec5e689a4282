"""The latest lines of the log, kept for those who look at them from afar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from threading import Barrier, Thread

import pytest

from appliance import logs
from appliance.logs import MAX_LINE_CHARS, RecentLines


def test_lines_are_numbered_from_1_and_asked_for_by_number() -> None:
    recent = RecentLines()
    for line in "abc":
        recent.add(line)
    assert recent.after(0) == [(1, "a"), (2, "b"), (3, "c")]
    assert recent.after(2) == [(3, "c")]
    assert recent.after(3) == recent.after(99) == []


def test_only_the_latest_are_kept_and_keep_their_numbers() -> None:
    recent = RecentLines(n_kept=2)
    for line in "abc":
        recent.add(line)
    assert recent.after(0) == [(2, "b"), (3, "c")]


def test_long_lines_have_a_bound_together() -> None:
    recent = RecentLines(max_chars=10)
    for line in ("aaaa", "bbbb", "cc", "d"):
        recent.add(line)
    assert recent.after(0) == [(2, "bbbb"), (3, "cc"), (4, "d")]
    assert recent.after(1) == recent.after(0)
    recent.add("e" * 11)  # one alone is above it
    assert recent.after(0) == []
    recent.add("f")
    assert recent.after(0) == [(6, "f")]


def test_ten_thousand_lines_are_kept() -> None:
    recent = RecentLines()
    for number in range(10_050):
        recent.add(f"line {number}")
    found = recent.after(0)
    assert (len(found), found[0], found[-1]) == (10_000, (51, "line 50"), (10_050, "line 10049"))
    assert recent.after(10_048) == found[-2:]


def test_an_endless_line_is_cut() -> None:
    recent = RecentLines()
    recent.add("x" * (MAX_LINE_CHARS + 1))
    assert len(recent.after(0)[0][1]) == MAX_LINE_CHARS


def test_what_is_no_text_can_be_sent_all_the_same() -> None:
    recent = RecentLines()
    recent.add("file=\udcff ä")
    assert recent.after(0) == [(1, "file=\\udcff ä")]
    assert recent.newest == 1


def test_who_follows_is_told_of_each_line_until_he_has_had_enough() -> None:
    recent, told = RecentLines(), list[int]()
    with recent.notified(lambda: told.append(len(recent.after(0)))):
        recent.add("a")
        recent.add("b")
    recent.add("c")
    assert told == [1, 2]  # the line is there when it is told of


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_lines_of_many_threads_have_a_number_each_in_ascending_order() -> None:
    recent = RecentLines(n_kept=100_000)
    n_threads, n_lines = 8, 400
    begin = Barrier(n_threads)

    def write(name: int) -> None:
        begin.wait()
        for number in range(n_lines):
            recent.add(f"{name} {number}")
            with recent.notified(lambda: None):
                recent.after(0)[:1]

    threads = [Thread(target=write, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = recent.after(0)
    assert [number for number, _ in found] == list(range(1, n_threads * n_lines + 1))
    assert len({line for _, line in found}) == n_threads * n_lines


def test_what_is_logged_is_kept_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    recent = RecentLines()
    logs.configure("info", "console", recent)
    logging.getLogger("appliance.test").info(logs.event("model_loaded", model="a", load_s=1.5))
    logging.getLogger("appliance.test").debug("nobody wants to read this")
    ((number, line),) = recent.after(0)
    assert number == 1
    assert line.endswith("appliance.test model_loaded model=a load_s=1.500")
    assert capsys.readouterr().err == f"{line}\n"
