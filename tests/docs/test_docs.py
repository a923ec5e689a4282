"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

import appliance
from appliance.cli import app
from appliance.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, object]:
    """Every command by its whole name, with its click object."""
    found = {}

    def walk(name: str, command: object) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[name] = command
        else:
            for child_name, child in children.items():
                walk(f"{name} {child_name}", child)

    walk("appliance", typer.main.get_command(app))
    return found


def test_every_command_is_in_the_readme() -> None:
    for name in commands():
        assert f"`{name}" in README, name


def test_every_command_and_every_option_has_help() -> None:
    for name, command in commands().items():
        assert command.help, name  # type: ignore[attr-defined]
        for parameter in command.params:  # type: ignore[attr-defined]
            assert parameter.help, f"{name} {parameter.name}"


def test_the_readme_lists_every_setting_with_its_description() -> None:
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` | " in README, name
        assert f" | {field.description} |" in README, name


def test_the_readme_lists_no_setting_that_is_not_there() -> None:
    table = README[README.index("| setting |") :]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == set(Settings.model_fields)


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.group(1) == appliance.__version__


def test_every_target_of_the_makefile_that_the_readme_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in set(re.findall(r"`((?:appliance|tests|scripts|requirements)/[\w./]+)`", text)):
        assert (ROOT / path).exists(), path
