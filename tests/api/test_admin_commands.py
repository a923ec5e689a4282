"""The commands that look into a running server and change it, as an operator meets them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.hardware.memory_use import RAM
from appliance.settings import ModelSettings
from appliance.supervisor.supervisor import Rules
from tests.api.commands import Said, run, start
from tests.gateway import Gateway, run_gateway
from tests.machine_room import MIB, until

BIG = 800 * MIB


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """Of its two large models one fits, one is damaged, and one is larger than the machine."""
    own = {"b": ModelSettings(aliases=["vendor/model"])}
    orders = {"bad": {"fail": "the file is cut off"}}
    sizes = {"a": BIG, "b": BIG, "bad": 0, "huge": 9000 * MIB}
    rules = Rules(max_wait_s=0.0)
    async with run_gateway(models=sizes, limits={RAM: 1200 * MIB}, orders=orders, rules=rules, own=own) as running:
        yield running


async def test_models_are_loaded_and_unloaded_and_shown(gateway: Gateway) -> None:
    loaded = await run(gateway, "models", "load", "b")
    assert (loaded.status, loaded.error) == (0, "loading b\n")
    assert loaded.out.startswith("b@3e23e8160039  ready  n_ctx 256  on CPU  RAM 840 MiB  idle for 0 s\n")
    shown = (await run(gateway, "models", "ps")).out.splitlines()
    assert shown[0] == "a@ca978112ca1b  stored  default"
    assert shown[1].startswith("b@3e23e8160039  ready")
    unloaded = await run(gateway, "models", "unload", "b")
    assert unloaded == Said(0, "b@3e23e8160039  stored\n", "")
    assert [m["state"] for m in json.loads((await run(gateway, "models", "ps", "--json")).out)] == ["stored", "stored"]


async def test_a_model_is_loaded_by_an_alias_with_a_slash(gateway: Gateway) -> None:
    assert (await run(gateway, "models", "load", "vendor/model")).out.startswith("b@3e23e8160039  ready")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", "the model 'nosuch' does not exist; there are: a, b, bad, huge"),
        ("org/nosuch", "the model 'org/nosuch' does not exist; there are: a, b, bad, huge"),
        ("a@0000", "a@0000 does not exist; there are: ca978112ca1b"),
        ("bad", "the model bad can't be loaded: the file is cut off"),
        ("..", "'..' is no model's name; `appliance models ls` lists them"),
        ("", "'' is no model's name; `appliance models ls` lists them"),
    ],
)
async def test_what_can_not_be_loaded_is_told(gateway: Gateway, name: str, message: str) -> None:
    said = await run(gateway, "models", "load", name)
    assert (said.status, said.out) == (1, "")
    assert said.error.endswith(f"error: {message}\n")


async def test_a_failed_model_says_why_and_when_it_is_tried_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 3600.0))
    assert (await run(gateway, "models", "load", "huge")).status == 1
    assert (await run(gateway, "models", "load", "bad")).status == 1
    shown = (await run(gateway, "models", "ps")).out
    assert "error: huge: the model, even with n_ctx=256, wants 8.8 GiB of RAM, where 1.2 GiB is free" in shown
    assert "failed  not tried again for 3" in shown
    gateway.supervisor.hosts["bad@2f05d4b689d2"].retry_at = 0.0
    assert (
        "failed  the next request tries again\n  error: the file is cut off" in (await run(gateway, "models", "ps")).out
    )


async def test_a_pin_and_a_default_hold_until_they_are_taken_back(gateway: Gateway) -> None:
    assert "ready  default  pinned" in (await run(gateway, "models", "pin", "a")).out
    refused = await run(gateway, "models", "load", "b")
    assert refused.status == 1
    assert "Pinned, so that they make no way: a@ca978112ca1b" in refused.error
    assert "pinned" not in (await run(gateway, "models", "unpin", "a")).out
    assert (await run(gateway, "models", "default", "b")).out == "b@3e23e8160039  stored  default\n"
    assert (await gateway.chat()).json()["model"] == "b"
    assert "default   b\n" in (await run(gateway, "status")).out


COMMANDS = [
    ("models", "ps"),
    ("models", "load", "a"),
    ("models", "unload", "a"),
    ("models", "pin", "a"),
    ("models", "unpin", "a"),
    ("models", "default", "a"),
    ("status",),
    ("history",),
    ("events",),
    ("logs",),
    ("logs", "--follow"),
    ("cache", "stats"),
    ("cache", "purge", "--all"),
    ("cache", "vacuum"),
]


async def test_without_a_server_every_command_says_how_to_get_one(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for command in COMMANDS:
        said = await run(gateway, *command, url=url)
        assert said.status == 1
        assert f"error: no server answers at {url}; start one with `appliance serve`" in said.error


async def test_without_the_token_every_command_says_how_to_get_it(gateway: Gateway, tmp_path: Path) -> None:
    for command in COMMANDS:
        said = await run(gateway, *command, APPLIANCE_STATE_DIR=str(tmp_path))
        assert (said.status, said.out) == (1, "")
        assert "admin-token, as 'Authorization: Bearer" in said.error
        assert f"there is none in {tmp_path}: run this as the server's user" in said.error


async def test_the_latest_log_lines_are_printed_and_followed_until_the_server_stops(gateway: Gateway) -> None:
    for line in ("one", "two", "three"):
        gateway.state.log.add(line)
    assert (await run(gateway, "logs")).out == "one\ntwo\nthree\n"
    assert (await run(gateway, "logs", "-n", "1")).out == "three\n"
    assert (await run(gateway, "logs", "-n", "0")) == Said(0, "", "")
    following = await start(gateway, "logs", "-f", "-n", "1")
    await until(lambda: gateway.state.log._on_line)
    gateway.state.log.add("four")
    assert following.stdout is not None
    assert [await following.stdout.readline() for _ in range(2)] == [b"three\n", b"four\n"]
    gateway.server.stop()
    assert (await following.communicate(), following.returncode) == ((b"", b""), 0)


async def test_events_are_printed_as_they_happen_and_ended_by_ctrl_c(gateway: Gateway) -> None:
    process, as_json = await start(gateway, "events"), await start(gateway, "events", "--json")
    await until(lambda: len(gateway.supervisor.feed._watchers) == 2)
    await gateway.chat(model="b")
    assert process.stdout is not None
    assert as_json.stdout is not None
    lines = [(await process.stdout.readline()).decode().split() for _ in range(3)]
    assert [line[1:] for line in lines] == [
        ["draining", "a@ca978112ca1b"],
        ["unloaded", "a@ca978112ca1b", "reason=room_for_waiting_requests"],
        ["loading", "b@3e23e8160039"],
    ]
    event = json.loads(await as_json.stdout.readline())
    assert (event["event"], event["model"], event["version"]) == ("draining", "a", "ca978112ca1b")
    for each in (process, as_json):
        each.send_signal(signal.SIGINT)
        assert b"Traceback" not in (await each.communicate())[1]
    await until(lambda: not gateway.supervisor.feed._watchers)


async def test_the_last_minutes_are_a_table(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing yet: the server takes a snapshot every 2 s" in (await run(gateway, "history")).out
    monkeypatch.setattr("appliance.service.history.INTERVAL_S", 0.01)
    keeping = asyncio.create_task(gateway.state.history.keep())
    await until(lambda: len(gateway.state.history._ring) >= 3)
    keeping.cancel()
    said = await run(gateway, "history")
    head, *rows = said.out.splitlines()
    assert head.split() == "time run wait prompt/s answer/s KV CPU RAM kB/s out kB/s in".split()
    assert max(map(len, said.out.splitlines())) <= 80
    assert len(rows) == len(gateway.state.history._ring) - 1
    assert len(json.loads((await run(gateway, "history", "--json")).out)["snapshots"]) == len(rows) + 1
