"""Everything that can be done in the terminal UI can be done with a command, and with an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import tui.app
from tests.api.test_access import routes
from tests.docs.test_docs import commands
from tests.gateway import run_gateway
from tui.keymap import known_bindings
from tui.sections import SECTIONS

assert tui.app  # its bindings count, too


@dataclass(frozen=True)
class Same:
    """The command, with the options that make it do the same, and the endpoint."""

    command: str
    method: str
    path: str


def admin(command: str, method: str, path: str) -> Same:
    return Same(f"appliance {command}", method, f"/admin/{path}")


CHAT = Same("appliance chat", "POST", "/v1/chat/completions")
# What changes or asks the server. A new binding needs a line here, or in ONLY_SHOWN.
DOES = {
    "chat.send": CHAT,
    "chat.retry": CHAT,
    "chat.stop": Same("appliance requests cancel", "DELETE", "/admin/requests/{request_id}"),
    "chat.model": Same("appliance chat --model", "GET", "/v1/models"),
    "chat.compare": CHAT,
    "models.load": admin("models load", "POST", "models/{model:path}/load"),
    "models.unload": admin("models unload", "POST", "models/{model:path}/unload"),
    "models.default": admin("models default", "POST", "models/{model:path}/default"),
    "models.pin": admin("models pin", "POST", "models/{model:path}/pin"),
    "models.use": admin("models use", "POST", "models/{model:path}/use"),
    "models.back": admin("models use", "POST", "models/{model:path}/use"),
    "requests.cancel": admin("requests cancel", "DELETE", "requests/{request_id}"),
    "cache.purge": admin("cache purge --model --key", "POST", "cache/purge"),
    "cache.older": admin("cache purge --older-than", "POST", "cache/purge"),
    "cache.all": admin("cache purge --all", "POST", "cache/purge"),
    "cache.vacuum": admin("cache vacuum", "POST", "cache/vacuum"),
    "doctor.run": admin("doctor --no-speed", "GET", "doctor"),
    "doctor.speed": admin("doctor", "GET", "doctor"),
}
# What a section shows as long as it is open.
SHOWS = {
    "chat": (CHAT,),
    "models": (
        admin("models ls", "GET", "models"),
        admin("models ps", "GET", "status"),
        admin("models plan", "GET", "models/{model:path}/plan"),
        admin("models unpin", "POST", "models/{model:path}/unpin"),
        admin("events", "GET", "events"),
    ),
    "dashboard": (
        admin("status", "GET", "status"),
        admin("history", "GET", "history"),
        admin("hardware", "GET", "hardware"),
    ),
    "requests": (admin("requests list", "GET", "requests"), admin("requests recent", "GET", "requests")),
    "cache": (admin("cache stats", "GET", "cache"),),
    "logs": (admin("logs --follow", "GET", "logs"),),
    "doctor": (admin("doctor", "GET", "doctor"),),
}
# What only looks at, finds, copies or keeps what is there already, on the client's side.
ONLY_SHOWN = {
    *("help", "palette", "quit", *(f"go.{section.name}" for section in SECTIONS)),
    *("confirm.yes", "confirm.no", "dialog.close"),
    *(f"rows.{name}" for name in ("up", "down", "page_up", "page_down", "first", "last", "left", "right", "choose")),
    *(f"log.{name}" for name in ("up", "down", "page_up", "page_down", "first", "follow", "left", "right")),
    *(f"logs.{name}" for name in ("all", "copy", "copy_all", "filter", "level")),
    *(f"requests.{name}" for name in ("all", "copy", "filter")),
    *(f"compare.{name}" for name in ("before", "copy", "leave", "models", "next", "open")),
    *(f"chat.{name}" for name in ("attach", "branch", "copy", "copy_code", "delete", "detach", "down", "edit")),
    *(f"chat.{name}" for name in ("export", "line", "list", "new", "next", "page_down", "page_up", "previous")),
    *(f"chat.{name}" for name in ("rename", "settings", "up")),
    "doctor.copy",
}
ALL = {*DOES.values(), *(same for shown in SHOWS.values() for same in shown)}


def test_every_binding_is_in_one_of_the_tables() -> None:
    known = known_bindings().keys()
    assert known == DOES.keys() | ONLY_SHOWN
    assert DOES.keys().isdisjoint(ONLY_SHOWN)


def test_every_section_is_in_the_table() -> None:
    assert [section.name for section in SECTIONS] == list(SHOWS)


@pytest.mark.parametrize("same", sorted(ALL, key=str), ids=lambda same: same.command)
def test_there_is_a_command_with_these_options(same: Same) -> None:
    words = same.command.split()
    options = [word for word in words if word.startswith("-")]
    name = " ".join(word for word in words if not word.startswith("-"))
    known = commands()
    assert name in known
    taken = {option for parameter in known[name].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert set(options) <= taken


async def test_there_are_the_endpoints() -> None:
    async with run_gateway() as gateway:
        there = set(routes(gateway))
    for same in ALL:
        assert (same.method, same.path) in there, same


async def test_no_endpoint_of_the_admin_api_is_out_of_reach_of_the_commands_and_the_tables() -> None:
    """Warming the cache wants a file of requests, and computed prefixes look after themselves: they have commands."""
    async with run_gateway() as gateway:
        there = {(method, path) for method, path in routes(gateway) if path.startswith("/admin")}
    reached = {(same.method, same.path) for same in ALL}
    only_commands = {("POST", "/admin/cache/warm"), ("GET", "/admin/kv-disk"), ("POST", "/admin/kv-disk/purge")}
    assert there - reached == only_commands
