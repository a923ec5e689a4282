"""The real loop of an engine process over a real socket, with the fake backend, on a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import msgspec
import pytest

from appliance.engine.backend import Backend, OnProgress
from appliance.engine.core import EngineCore
from appliance.engine.messages import (
    Abort,
    Accepted,
    Buffer,
    Command,
    EngineConfig,
    Event,
    Events,
    Failed,
    Finished,
    FrameReader,
    LoadFailed,
    LoadProgress,
    Piece,
    Ready,
    Report,
    Stop,
    encode,
)
from appliance.engine.runner import CommandSocket, Loading, Outbox, run_engine
from tests.factories import submit
from tests.fake_backend import FakeBackend, fake_path, load_fake
from tests.fake_embedder import load_fake_embedder

CONFIG = EngineConfig(
    model_path="",
    tensor_types=(),
    n_ctx=0,
    n_batch=16,
    prompt_step_s=0.25,
    stream_interval_s=0.0,
    n_threads=1,
    n_threads_batch=1,
    poll=0,
    n_gpu_layers=0,
    longest_token_bytes=1,
    max_running=4,
    prefix_reuse=True,
)


class Peer:
    """The gateway's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(20)
        self._reader: FrameReader[Report] = FrameReader(Report)
        self._reports: list[Report] = []

    def send(self, *commands: Command) -> None:
        self.connection.sendall(b"".join(encode(command) for command in commands))

    def receive(self) -> Report:
        """The next report, but how far loading is."""
        while isinstance(report := self.receive_any(), LoadProgress):
            pass
        return report

    def receive_any(self) -> Report:
        while not self._reports:
            data = self.connection.recv(65536)
            assert data, "the engine closed the socket"
            self._reports += self._reader.feed(data)
        return self._reports.pop(0)

    def events_until(self, request_id: str) -> list[Event]:
        """All events up to the terminal one of a request."""
        events: list[Event] = []
        while True:
            report = self.receive()
            assert isinstance(report, Events)
            events += report.events
            if any(isinstance(e, Finished | Failed) and e.request_id == request_id for e in report.events):
                return events


class Engine:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.peer = Peer(ours)
        self.thread = threading.Thread(target=self._run, args=(theirs,))
        self.thread.start()

    def _run(self, theirs: socket.socket) -> None:
        with theirs:
            run_engine(theirs, self.load, load_fake_embedder)

    def load(self, config: EngineConfig, on_progress: OnProgress) -> AbstractContextManager[Backend]:
        return load_fake(config, on_progress)

    def close(self) -> None:
        self.peer.connection.close()
        self.join()

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive(), "the engine did not end"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.peer.send(CONFIG)
    assert isinstance(engine.peer.receive(), Ready)
    yield engine
    engine.close()


def test_a_request_goes_through(engine: Engine) -> None:
    engine.peer.send(submit("a", request_id="r", max_tokens=2))
    events = engine.peer.events_until("r")
    assert events[0] == Accepted("r", 1)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.n_prompt, finished.n_cached, finished.n_completion) == (1, 0, 2)


def test_an_idle_engine_goes_on_as_soon_as_a_grammar_is_compiled(engine: Engine) -> None:
    for number in range(20):
        grammar = f'start: "answer {number}"'
        engine.peer.send(submit("a", request_id=f"{number}", grammar=grammar, max_tokens=20))
        events = engine.peer.events_until(f"{number}")
        assert "".join(event.text for event in events if isinstance(event, Piece)) == f"answer {number}"


def test_events_of_one_step_come_in_one_message(engine: Engine) -> None:
    engine.peer.send(submit("a", request_id="1", max_tokens=3), submit("b", request_id="2", max_tokens=3))
    engine.peer.receive()  # both accepted, and the first step
    report = engine.peer.receive()
    assert isinstance(report, Events)
    assert {event.request_id for event in report.events} == {"1", "2"}


def test_an_abort_has_its_terminal_event(engine: Engine) -> None:
    engine.peer.send(submit("1", request_id="r", max_tokens=None, ignore_eos=True), Abort("r"))
    assert isinstance(engine.peer.events_until("r")[-1], Finished)


def test_stop_fails_what_is_open_and_ends_the_engine(engine: Engine) -> None:
    engine.peer.send(submit("1", request_id="r", max_tokens=200, ignore_eos=True), Stop())
    assert isinstance(engine.peer.events_until("r")[-1], Failed)
    engine.join()


def test_an_engine_whose_gateway_is_gone_ends_in_the_middle_of_its_work() -> None:
    engine = Engine()
    engine.peer.send(CONFIG, submit("1", max_tokens=200, ignore_eos=True))
    engine.peer.receive()
    engine.close()


def test_an_idle_engine_whose_gateway_is_gone_ends() -> None:
    engine = Engine()
    engine.peer.send(CONFIG)
    engine.peer.receive()
    engine.close()


def test_a_model_that_can_not_be_loaded_is_reported() -> None:
    engine = Engine()
    engine.peer.send(msgspec.structs.replace(CONFIG, model_path=fake_path(fail="no such file")))
    assert engine.peer.receive() == LoadFailed("no such file")
    engine.join()
    engine.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"n_gpu_layers": -1}, "no memory for 10 layers on the GPU"), ({"n_ctx": 600}, "no memory for a context of 600")],
)
def test_a_model_that_does_not_fit_is_told_apart(fields: dict[str, int], reason: str) -> None:
    path = fake_path(oom_above_layers=4, oom_above_ctx=512)
    engine = Engine()
    engine.peer.send(msgspec.structs.replace(CONFIG, model_path=path, **fields))
    failed = engine.peer.receive()
    assert isinstance(failed, LoadFailed)
    assert failed.is_out_of_memory
    assert reason in failed.message
    engine.join()
    engine.close()


def test_what_was_measured_at_the_load_is_reported() -> None:
    path = fake_path(buffers=(Buffer("CUDA0", "kv", 12),), anonymous_bytes=34, has_gpu=True, n_layers=7)
    engine = Engine()
    engine.peer.send(msgspec.structs.replace(CONFIG, model_path=path, n_gpu_layers=-1))
    ready = engine.peer.receive()
    assert isinstance(ready, Ready)
    assert (ready.buffers, ready.anonymous_bytes) == ((Buffer("CUDA0", "kv", 12),), 34)
    assert (ready.n_gpu_layers, ready.has_gpu) == (7, True)
    engine.close()


def test_a_load_says_how_far_it_is_up_to_its_end(tmp_path: Path) -> None:
    engine = Engine()
    engine.peer.send(msgspec.structs.replace(CONFIG, model_path=fake_path(load_until=str(tmp_path / "go"))))
    assert engine.peer.receive_any() == LoadProgress(0.99)
    (tmp_path / "go").touch()
    assert engine.peer.receive_any() == LoadProgress(1.0)
    assert isinstance(engine.peer.receive_any(), Ready)
    engine.close()


def test_a_load_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    for command in ([], [Stop()]):
        engine = Engine()
        engine.peer.send(msgspec.structs.replace(CONFIG, model_path=fake_path(load_until=str(tmp_path / "never"))))
        engine.peer.receive_any()
        if command:
            engine.peer.send(*command)
            engine.join()
        engine.close()


def test_a_request_that_came_while_the_model_loaded_is_served(tmp_path: Path) -> None:
    engine = Engine()
    engine.peer.send(msgspec.structs.replace(CONFIG, model_path=fake_path(load_until=str(tmp_path / "go"))))
    engine.peer.receive_any()
    engine.peer.send(submit("a", request_id="r", max_tokens=2))
    (tmp_path / "go").touch()
    assert isinstance(engine.peer.receive(), Ready)
    assert isinstance(engine.peer.events_until("r")[-1], Finished)
    engine.close()


class FakeGateway:
    """The commands that an engine finds in its socket when it looks, while it loads."""

    def __init__(self) -> None:
        self.sent: list[Report] = []
        self.waiting: list[Command] = []

    def send(self, message: Report) -> None:
        self.sent.append(message)

    def receive(self, *, wait: bool) -> list[Command]:
        received, self.waiting = self.waiting, []
        return received


def test_progress_is_sent_ten_times_a_second_at_most_and_at_the_end() -> None:
    gateway, at_ms = FakeGateway(), 0
    loading = Loading(cast(CommandSocket, gateway), now=lambda: at_ms / 1000)
    for percent in range(101):
        at_ms += 7
        assert loading.on_progress(percent / 100)
    sent = [report.ratio for report in gateway.sent if isinstance(report, LoadProgress)]
    assert sent == [0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0]
    assert loading.on_progress(1.0)
    assert len(gateway.sent) == len(sent)


class SlowClock:
    """Steps of the engine take no time; the test says when it passes."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.sent: list[Events] = []
        self.core = EngineCore(FakeBackend(), n_batch=8, max_running=4, prefix_reuse=True)
        self.outbox = Outbox(self.sent.append, 0.01, now=lambda: self.at_s)

    def submit(self, text: str, *, max_tokens: int = 20) -> None:
        self.outbox.put(self.core.submit(submit(text, max_tokens=max_tokens)))

    def step(self, step_s: float) -> int:
        """Computes a step; the number of messages that were sent after it."""
        n_before = len(self.sent)
        self.outbox.put(self.core.step())
        self.at_s += step_s
        self.outbox.flush_due(self.core)
        return len(self.sent) - n_before

    def text(self) -> str:
        return "".join(event.text for report in self.sent for event in report.events if isinstance(event, Piece))


def test_text_that_comes_fast_is_sent_together() -> None:
    clock = SlowClock()
    clock.submit("a")
    assert [clock.step(0.004) for _ in range(7)] == [1, 0, 0, 1, 0, 0, 1]
    assert clock.text() == "bcdefgh"
    assert [len(report.events) for report in clock.sent] == [2, 3, 3]


def test_text_that_comes_slowly_is_sent_at_once() -> None:
    clock = SlowClock()
    clock.submit("a")
    assert [clock.step(0.02) for _ in range(4)] == [1, 1, 1, 1]


def test_the_end_of_an_answer_is_sent_at_once() -> None:
    clock = SlowClock()
    clock.submit("a", max_tokens=3)
    assert [clock.step(0.001) for _ in range(3)] == [1, 0, 1]
    assert clock.core.is_idle
    assert isinstance(clock.sent[-1].events[-1], Finished)


def test_no_text_waits_for_a_prompt() -> None:
    clock = SlowClock()
    clock.submit("a")
    clock.step(0.001)
    clock.submit("1" * 40)  # takes several steps, of which each may be long
    assert [clock.step(0.001) for _ in range(5)] == [1, 1, 1, 1, 1]
    assert clock.step(0.001) + clock.step(0.001) <= 1


def test_steps_that_lead_to_nothing_are_a_sign_of_life_each_second() -> None:
    clock = SlowClock()
    clock.outbox.put(clock.core.submit(submit("a", max_tokens=100, stop=("bcdefghi!",))))
    assert [clock.step(0.25) for _ in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert [len(report.events) for report in clock.sent] == [1, 0, 1]
    assert clock.sent[1].load.n_steps == 5
    assert clock.text() == "bcdefghij"


def test_an_idle_engine_says_nothing() -> None:
    clock = SlowClock()
    clock.submit("a", max_tokens=1)
    clock.step(0.1)
    clock.at_s += 100
    clock.outbox.flush_due(clock.core)
    assert len(clock.sent) == 1


def test_no_text_waits_while_a_request_does() -> None:
    clock = SlowClock()
    for _ in range(5):  # one more than there are slots: its prompt may be in any step
        clock.submit("a")
    clock.step(0.001)
    assert [clock.step(0.001) for _ in range(4)] == [1, 1, 1, 1]
