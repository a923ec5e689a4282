"""What all sections have in common: navigation, keys, themes, the command palette, help, and a lost server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.dom import DOMNode
from textual.widgets import TextArea

from tests.tui.recorded import RecordedServer, is_told, opened, recorded, screen_text, sees, until
from tests.tui.snapshots import check_snapshot
from tui.app import ApplianceApp
from tui.client import Target
from tui.keymap import known_bindings, own_kinds, problem_of
from tui.preferences import Preferences, PreferencesError, load, save_theme
from tui.sections import SECTIONS


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        yield running


async def test_every_section_is_reached_by_its_key_and_fits_80_columns(server: RecordedServer) -> None:
    async with opened(server, "requests") as pilot:
        for section in SECTIONS:
            await pilot.press(section.key)
            await sees(pilot, f"[{section.title}]")
            navigation = screen_text(pilot).splitlines()[0]
            assert all(f"{each.key.upper()} " in navigation for each in SECTIONS)
            assert all(each.title in navigation for each in SECTIONS)


async def test_a_section_is_reached_with_the_mouse(server: RecordedServer) -> None:
    async with opened(server, "requests") as pilot:
        await sees(pilot, "Doctor")
        await pilot.click(offset=(screen_text(pilot).splitlines()[0].index("Doctor"), 0))
        await sees(pilot, "[Doctor]")


async def test_a_wide_screen_names_the_server(server: RecordedServer) -> None:
    async with opened(server, "requests", size=(160, 50)) as pilot:
        await sees(pilot, server.url)


async def test_a_lost_server_shows_a_banner_that_goes_when_it_is_back(server: RecordedServer) -> None:
    async with opened(server, "requests", size=(140, 30)) as pilot:
        await server.stop()
        await sees(pilot, "! No server answers at", "Trying again in", "What is shown is of")
        await server.start()
        await until(pilot, lambda: "No server answers" not in screen_text(pilot))


async def test_a_wrong_key_is_one_sentence(server: RecordedServer) -> None:
    server.key = "right"
    app = ApplianceApp(Target(server.url, "wrong"))
    async with app.run_test() as pilot:
        await sees(pilot, "! The API key isn't known.")


async def test_a_wrong_address_is_one_sentence() -> None:
    app = ApplianceApp(Target("http://[nowhere"))
    async with app.run_test(size=(120, 30)) as pilot:
        await sees(pilot, "! No server answers at http://[nowhere.")


# Keys


async def test_a_users_key_takes_the_place_of_the_own_one_also_where_it_is_named(server: RecordedServer) -> None:
    app = ApplianceApp(Target(server.url), Preferences(keys={"go.doctor": "f12"}))
    async with app.run_test() as pilot:
        await sees(pilot, "F12 Doctor")
        await pilot.press("f8")
        assert "[Doctor]" not in screen_text(pilot)
        await pilot.press("f12")
        await sees(pilot, "[Doctor]")


def test_every_binding_has_an_id_of_its_own_a_tooltip_and_a_description() -> None:
    known = known_bindings()
    assert {"quit", "help", "palette", "chat.stop", "models.load", "logs.copy", "rows.up"} <= known.keys()
    for name, binding in known.items():
        assert binding.tooltip.endswith("."), name
        assert 2 <= len(binding.description) <= 14, name


def test_no_binding_is_without_an_id() -> None:
    known_bindings()
    for kind in own_kinds(DOMNode):
        for binding in vars(kind).get("BINDINGS", ()):
            # The keys with which a text is edited are Textual's.
            assert getattr(binding, "id", None) or binding in TextArea.BINDINGS, f"{kind.__name__}: {binding}"


@pytest.mark.parametrize("key", ["ctrl+x", "f9", "alt+enter", "slash", "x", "/", "question_mark", "x,delete", "A", "+"])
def test_a_key_is_known_by_its_names(key: str) -> None:
    assert problem_of({"doctor.run": key}) is None


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {"doctor.fly": "x"},
            '"doctor.fly" is nothing that a key can be given to; such are doctor.copy, doctor.run',
        ),
        ({"doctor.run": "hyperspace"}, '"hyperspace", given for "doctor.run", is no key'),
        ({"doctor.run": "ctlr+x"}, '"ctlr+x", given for "doctor.run", is no key'),
        ({"doctor.run": ""}, '"", given for "doctor.run", is no key'),
        ({"doctor.run": "s"}, '"s" would be the key of both "doctor.run" and "doctor.speed".'),
        ({"doctor.run": "f2"}, '"f2" would be the key of both "doctor.run" and "go.chat".'),
    ],
)
def test_a_key_that_makes_no_sense_is_one_sentence(keys: dict[str, str], problem: str) -> None:
    found = problem_of(keys)
    assert found is not None
    assert problem in found
    assert "\n" not in found


def test_two_keys_may_change_places() -> None:
    assert problem_of({"doctor.run": "s", "doctor.speed": "r"}) is None


# The user's file


def test_no_file_is_no_preferences(tmp_path: Path) -> None:
    assert load(tmp_path / "tui.toml") == Preferences(tmp_path / "tui.toml")


def test_the_file_has_a_theme_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "tui.toml"
    path.write_text('theme = "nord"\n[keys]\n"quit" = "ctrl+x"\n')
    assert load(path) == Preferences(path, "nord", {"quit": "ctrl+x"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("theme = ", "can't be read"),
        ("theme = 3", "theme = 3 is no name."),
        ('colour = "red"', "colour is not known; there are theme and [keys]."),
        ('keys = "ctrl+x"', "keys is no table"),
        ("[keys]\nquit = 3", 'the key of "quit" is no text'),
    ],
)
def test_a_file_that_makes_no_sense_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "tui.toml"
    path.write_text(text)
    with pytest.raises(PreferencesError, match=r"\.$") as failed:
        load(path)
    assert str(path) in str(failed.value)
    assert problem in str(failed.value)
    assert "\n" not in str(failed.value)


def test_an_unknown_theme_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PreferencesError, match='theme "neon" is not known; there are .*high-contrast'):
        ApplianceApp(Target("http://127.0.0.1:9"), Preferences(tmp_path / "tui.toml", "neon"))


async def test_a_theme_that_was_chosen_is_kept_beside_what_else_is_in_the_file(
    server: RecordedServer, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "tui.toml"
    save_theme(path, "nord")
    path.write_text(path.read_text() + '# mine\n[keys]\n"quit" = "ctrl+x"\n')
    app = ApplianceApp(Target(server.url), load(path))
    async with app.run_test() as pilot:
        assert app.theme == "nord"
        app.theme = "high-contrast"
        await until(pilot, lambda: load(path).theme == "high-contrast")
    assert "# mine\n" in path.read_text()
    assert load(path).keys == {"quit": "ctrl+x"}


async def test_a_theme_that_cannot_be_kept_is_told(server: RecordedServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = ApplianceApp(Target(server.url), Preferences(tmp_path / "file" / "tui.toml"))
    async with app.run_test() as pilot:
        app.theme = "nord"
        await is_told(pilot, "The theme can't be kept in")


# Palette and help


async def test_the_palette_does_what_the_keys_of_the_section_and_the_app_do(server: RecordedServer) -> None:
    async with opened(server, "doctor") as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(pilot.app.screen, CommandPalette))
        await pilot.press(*"examine")
        await sees(pilot, "Examine (r)")
        await pilot.press("enter")
        await until(pilot, lambda: server.of("GET", "/admin/doctor"))
        await pilot.press("ctrl+p", *"response")
        await sees(pilot, "Cache (f6)")
        await pilot.press("enter")
        await sees(pilot, "[Cache]")


async def test_the_palette_looks_as_in_the_readme_in_high_contrast(server: RecordedServer, tmp_path: Path) -> None:
    async with opened(server, "doctor", size=(100, 30)) as pilot:
        pilot.app.theme = "high-contrast"
        await pilot.press("ctrl+p", *"doctor")
        await sees(pilot, "Doctor (f8)")
        await check_snapshot(pilot, "high-contrast", tmp_path)


async def test_help_shows_the_keys_and_hides_them_again(server: RecordedServer) -> None:
    async with opened(server, "doctor", size=(100, 40)) as pilot:
        await pilot.press("f1")
        await sees(pilot, "for what is")
        await pilot.press("f1")
        await until(pilot, lambda: "for what is" not in screen_text(pilot))


async def test_sections_that_were_left_are_as_they_were(server: RecordedServer) -> None:
    async with opened(server, "requests") as pilot:
        await pilot.press("slash", *"abc", "f8")
        await sees(pilot, "[Doctor]")
        await pilot.press("f5")
        await sees(pilot, "[Requests]", "abc")
