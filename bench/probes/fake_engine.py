"""``python -m bench.probes.fake_engine FD LEVEL FORMAT``: an engine process that computes nothing.

A prompt begins with how many streams there will be and how long a step takes, as ``64 0.01``. Once so many requests
are open, each step brings a token for every one of them. With a step of 0 seconds the next step is sent when the
gateway has read the last one: as fast as it takes them, and never two steps in one read.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator

from appliance.engine.messages import (
    Abort,
    Accepted,
    Command,
    Event,
    Events,
    Finished,
    Load,
    Piece,
    Ready,
    SequenceFinished,
    Stop,
    Submit,
)
from appliance.engine.runner import CommandSocket, GatewayGone

TEXT = " token"
N_CTX = 1 << 20
# Between two looks whether the gateway has read a step; much less than it takes to send one on.
_LOOK_S = 50e-6


class FakeEngine:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._commands = CommandSocket(connection)
        self._open: dict[str, Submit] = {}
        self._n_sent: dict[str, int] = {}
        self._next_at_s = 0.0

    def run(self) -> None:
        """Until the gateway says stop. Raises GatewayGone when it has gone."""
        self._commands.receive(wait=True)
        self._commands.send(Ready(n_ctx=N_CTX, n_seq_max=1024, build="fake", device="none"))
        received: list[Command] = []
        while not any(isinstance(command, Stop) for command in received):
            events = [event for command in received for event in self._take(command)]
            if self._has_all():
                self._wait_for_turn()
                events += self._step()
            if events:
                self._commands.send(Events(tuple(events), Load(len(self._open), 0, 0, N_CTX)))
            received = self._commands.receive(wait=not self._has_all())

    def _take(self, command: Command) -> Iterator[Event]:
        match command:
            case Submit(request_id):
                self._open[request_id] = command
                self._n_sent[request_id] = 0
                yield Accepted(request_id, 2)
            case Abort(request_id) if request_id in self._open:
                yield self._end(request_id)

    def _has_all(self) -> bool:
        """Whether the streams have begun, or all are there to begin."""
        if not self._open:
            return False
        request_id, submit = next(iter(self._open.items()))
        return self._n_sent[request_id] > 0 or len(self._open) >= int(_order(submit)[0])

    def _wait_for_turn(self) -> None:
        step_s = _order(next(iter(self._open.values())))[1]
        if step_s == 0:
            while _n_unread(self._connection):
                time.sleep(_LOOK_S)
            return
        now_s = time.monotonic()
        self._next_at_s = max(self._next_at_s + step_s, now_s)
        time.sleep(self._next_at_s - now_s)

    def _step(self) -> list[Event]:
        events: list[Event] = []
        for request_id, submit in list(self._open.items()):
            events.append(Piece(request_id, 0, TEXT))
            self._n_sent[request_id] += 1
            if self._n_sent[request_id] == submit.max_tokens:
                events += [SequenceFinished(request_id, 0, "length", self._n_sent[request_id]), self._end(request_id)]
        return events

    def _end(self, request_id: str) -> Finished:
        del self._open[request_id]
        return Finished(request_id, 2, 0, self._n_sent.pop(request_id))


def _order(submit: Submit) -> tuple[float, float]:
    """How many streams, and how many seconds a step."""
    n_streams, step_s, *_ = submit.parts[0].text.split(maxsplit=2)
    return float(n_streams), float(step_s)


def _n_unread(connection: socket.socket) -> int:
    """Bytes, and what the kernel keeps of them, that the other end has not read."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0])


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            FakeEngine(connection).run()
        except GatewayGone:
            return


if __name__ == "__main__":
    main()
