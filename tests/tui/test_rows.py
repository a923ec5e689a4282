"""The table that draws only what is seen: its cursor, its scrolling, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tests.tui.recorded import screen_text, until
from tui.widgets.rows import Cell, Column, Row, Rows

# An update of all rows, and a page; of the processor's time, for others use this machine, too.
FRAME_S = 0.05


class Table(App[None]):
    def compose(self) -> ComposeResult:
        yield Rows(Column("Name", max_width=10), Column("Size", is_number=True))

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)


def rows(keys: Sequence[object], size: object = "") -> list[Row]:
    return [Row(str(key), (Cell(f"row {key}"), Cell(f"{size}"))) for key in keys]


def seen(pilot: Pilot[None]) -> list[str]:
    """The lines, without the scroll bar."""
    return [line[:30].rstrip() for line in screen_text(pilot).splitlines()]


async def test_the_cursor_stays_on_its_row_when_others_come_and_go() -> None:
    app = Table()
    async with app.run_test() as pilot:
        app.rows.show(rows("abcd"))
        await pilot.press("down", "down")
        assert app.rows.current == "c"
        app.rows.show(rows("xyzbcd"))
        assert app.rows.current == "c"
        app.rows.show(rows("xc"))
        assert app.rows.current == "c"


async def test_the_cursor_goes_to_the_next_when_its_row_goes() -> None:
    app = Table()
    async with app.run_test() as pilot:
        app.rows.show(rows("abcd"))
        await pilot.press("down")
        app.rows.show(rows("acd"))
        assert app.rows.current == "c"
        app.rows.show(rows("a"))
        assert app.rows.current == "a"
        app.rows.show([])
        assert app.rows.current is None
        await pilot.press("down", "up", "pagedown", "end", "home", "enter")
        app.rows.show(rows("q"))
        assert app.rows.current == "q"


async def test_what_is_seen_stays_where_it_is_when_rows_above_end() -> None:
    app = Table()
    async with app.run_test(size=(40, 11)) as pilot:
        app.rows.show(rows(range(100)))
        await pilot.press("pagedown", "pagedown", "pagedown", "up")
        before = seen(pilot)
        app.rows.show(rows(range(10, 100)))
        await until(pilot, lambda: app.rows.max_scroll_y == 80)
        assert seen(pilot) == before


async def test_every_row_can_be_reached_by_keys_and_by_the_wheel() -> None:
    app = Table()
    async with app.run_test(size=(40, 11)) as pilot:
        app.rows.show(rows(range(100)))
        await pilot.press("end")
        await until(pilot, lambda: seen(pilot)[-1] == "> row 99")
        await pilot.press("pageup", "home")
        await until(pilot, lambda: seen(pilot)[1] == "> row 0")
        await pilot.click(Rows, offset=(3, 4))
        assert app.rows.current == "3"
        app.rows.scroll_down(animate=False)
        await until(pilot, lambda: seen(pilot)[1] == "  row 1")
        await pilot.click(Rows, offset=(3, 4))
        assert app.rows.current == "4"


async def test_columns_are_as_wide_as_what_is_in_them_and_numbers_end_together() -> None:
    app = Table()
    async with app.run_test() as pilot:
        app.rows.show([*rows(["of a very long name"], "1"), *rows("b", "20000")])
        await pilot.pause()
        assert screen_text(pilot).splitlines()[:3] == [
            "  Name         Size",
            "> row of a …      1",
            "  row b       20000",
        ]


async def test_wide_characters_and_control_characters_keep_the_columns() -> None:
    app = Table()
    async with app.run_test() as pilot:
        app.rows.show([Row("a", (Cell("模型模型模型模型"), Cell("1"))), Row("b", (Cell("x\x1b[31m\n"), Cell("2")))])
        await pilot.pause()
        lines = screen_text(pilot).splitlines()
        assert lines[1] == "> 模型模型 …     1"
        assert lines[2] == "  x?[31m         2"


async def test_columns_that_have_no_room_are_reached_by_keys() -> None:
    app = Table()
    async with app.run_test(size=(14, 11)) as pilot:
        app.rows.show(rows("a", "1234567890"))
        await pilot.press("right", "right")
        await until(pilot, lambda: seen(pilot)[1].endswith("1234567890"))
        await pilot.press("left", "left")
        await until(pilot, lambda: seen(pilot)[1] == "> row a  12345")


async def test_nothing_is_drawn_when_nothing_has_changed() -> None:
    app = Table()
    async with app.run_test() as pilot:
        app.rows.show(rows("abc"))
        await pilot.pause()
        drawn: list[int] = []
        render_line = app.rows.render_line

        def counted(y: int) -> object:
            drawn.append(y)
            return render_line(y)

        app.rows.render_line = counted  # type: ignore[assignment, method-assign]
        app.rows.show(rows("abc"))
        await pilot.pause()
        assert drawn == []
        app.rows.show([*rows("ab"), *rows("c", "2")])
        await pilot.pause()
        assert set(drawn) == {3}


async def test_500_rows_that_all_change_are_drawn_in_a_frame() -> None:
    app = Table()
    async with app.run_test(size=(200, 60)) as pilot:
        tables = [rows(range(500), size) for size in range(6)]
        app.rows.show(tables[0])
        await pilot.pause()
        took = []
        for table in tables[1:]:
            began = time.process_time()
            app.rows.show(table)
            await pilot.press("pagedown")
            await pilot.pause()
            took.append(time.process_time() - began)
        assert min(took) < FRAME_S, took
