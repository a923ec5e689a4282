"""The terminal UI as its user meets it: in a terminal of 100 by 30, before a real server with the real model."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import APPLIANCE, ROOT, RunningServer, start_server

pytestmark = [pytest.mark.model, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux isn't installed")]

# Machines are shared: no step comes near it on a quiet one.
PATIENCE_S = 40.0
LONG = "Write a very long story about the sea."


class Terminal:
    """A tmux server of its own, with one window in which the terminal UI runs."""

    def __init__(self, folder: Path, server: RunningServer) -> None:
        self._socket = str(folder / "tmux")
        environment = {
            **os.environ,
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "APPLIANCE_STATE_DIR": str(server.state_dir),
            "TERM": "screen-256color",
            "LC_ALL": "C.UTF-8",
        }
        environment.pop("TMUX", None)
        # tmux itself may miss the end of its child, and not know its status: a shell writes it down.
        self._status = folder / "status"
        shell = ("sh", "-c", f'"$@"; echo $? > {self._status}.part; mv {self._status}.part {self._status}', "sh")
        command = [*shell, *APPLIANCE, "tui", "--url", server.url]
        size = ("-x", "100", "-y", "30")
        # The pane outlives the program, so that what it leaves behind can be read.
        keep = ("set-option", "-g", "remain-on-exit", "on", ";")
        self._run("-f", os.devnull, *keep, "new-session", "-d", *size, *command, cwd=ROOT, env=environment)

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    @property
    def exit_status(self) -> int | None:
        """None: it runs."""
        return int(self._status.read_text()) if self._status.exists() else None

    def sees(self, *texts: str) -> str:
        """The screen once all of ``texts`` are on it."""
        return self.waits(lambda: all(text in self.screen for text in texts), f"{texts}") and self.screen

    def waits(self, condition: Callable[[], object], what: str) -> bool:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, f"{what} was waited for in vain; the screen:\n{self.screen}"
            assert self.exit_status is None or what == "the end", self.screen
        return True

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("kill-server")

    def _run(self, *arguments: str, **options: object) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, **options).stdout  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def live() -> Iterator[RunningServer]:
    with open(os.devnull, "w") as nowhere, start_server(stderr=nowhere) as server:
        yield server


@pytest.fixture
def terminal(live: RunningServer) -> Iterator[Terminal]:
    # The path of a socket may not be long.
    with tempfile.TemporaryDirectory(prefix="tui-") as folder:
        terminal = Terminal(Path(folder), live)
        try:
            yield terminal
        finally:
            terminal.close()


def requests(server: RunningServer) -> list[dict[str, Any]]:
    """Those that wait or run."""
    headers = {"Authorization": f"Bearer {(server.state_dir / 'admin-token').read_text().strip()}"}
    found = httpx.get(f"{server.url}/admin/requests", headers=headers, timeout=30, trust_env=False)
    return list(found.json()["requests"])


def test_a_whole_visit(terminal: Terminal, live: RunningServer) -> None:
    # Type, see the answer come, and stop it.
    terminal.sees("[Chat]", "smollm2-135m-instruct")
    ask_and_stop(terminal, live, LONG)
    # Another section, and a request that is cancelled there.
    with asking(live):
        terminal.press("F5")
        terminal.sees("[Requests]", "1 open request", "decode")
        terminal.press("x")
        terminal.sees("Cancel it (y)")
        terminal.press("y")
        terminal.sees("No request waits or runs")
    # All others.
    for key, title, text in (
        ("F3", "[Models]", "ready"),
        ("F4", "[Dashboard]", "Tokens out"),
        ("F6", "[Cache]", "The response cache is off"),
        ("F7", "[Logs]", "Following"),
        ("F8", "[Doctor]", "Press r"),
    ):
        terminal.press(key)
        found = terminal.sees(title, text)
        assert "path=/admin/status" not in found  # in the log, who looks would see only that
    # The models are switched: this one is unloaded, and loaded again by who asks.
    terminal.press("F3")
    terminal.sees("[Models]", "ready")
    terminal.press("u")
    terminal.sees("Unload smollm2-135m-instruct@", "Unload (y)")
    terminal.press("y")
    terminal.sees("stored")
    terminal.press("F2")
    terminal.sees("[Chat]", LONG)
    terminal.press("C-n")
    terminal.sees("Nothing was said yet.")
    ask_and_stop(terminal, live, "Write another one about the moon.")
    terminal.press("C-q")
    terminal.waits(lambda: terminal.exit_status is not None, "the end")
    assert terminal.exit_status == 0, terminal.screen
    assert "Traceback" not in terminal.screen


def ask_and_stop(terminal: Terminal, server: RunningServer, prompt: str) -> None:
    """The answer is long: nothing depends on what a model says, or on when it is done."""
    terminal.type(prompt)
    terminal.press("Enter")
    terminal.waits(lambda: any(asked["completion_pieces"] > 3 for asked in requests(server)), "an answer that comes")
    terminal.sees("You", prompt)
    terminal.press("Escape")
    terminal.waits(lambda: not requests(server), "that the server stops")
    found = terminal.sees("stopped", "tokens/s", "first after", "Ask something")
    assert re.search(r"[1-9]\d*(\.\d+)? tokens/s", found), found


@contextlib.contextmanager
def asking(server: RunningServer) -> Iterator[None]:
    """Another client's long request, to the end of the block."""
    body = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 2000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as response:
        assert response.status_code == 200
        yield
