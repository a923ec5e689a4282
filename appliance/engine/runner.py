"""The engine process's loop: commands from the socket, steps, events back."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from appliance import logs
from appliance.engine.backend import Backend, BackendInfo, LoadCancelled, OnProgress
from appliance.engine.build import engine_build
from appliance.engine.core import EngineCore
from appliance.engine.embedding import Embedder, EmbeddingCore
from appliance.engine.kv_file import KVKey
from appliance.engine.kv_folder import KVFolder
from appliance.engine.kv_keeper import KVKeeper
from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.messages import (
    Abort,
    Command,
    Detokenize,
    Embed,
    EngineConfig,
    Event,
    Events,
    FrameReader,
    Load,
    LoadFailed,
    LoadProgress,
    Piece,
    Ready,
    Report,
    Stop,
    Submit,
    Tokenize,
    encode,
)
from appliance.errors import ApplianceError, EngineOutOfMemory, EngineUnavailable

log = logging.getLogger(__name__)

RECV_BYTES = 1 << 18
# How often a load says how far it is, and looks whether it is still wanted.
PROGRESS_INTERVAL_S = 0.1
# How long an engine that is to stop may take to save what it retains; the gateway waits for five seconds.
SAVE_GRACE_S = 3.0
# An engine that has loaded its model waits no longer until it is known what is on the disk; mostly it is long before.
SCAN_WAIT_S = 1.0
# While there is work, the gateway hears of the engine's steps this often, also of those that lead to no event.
SIGN_OF_LIFE_S = 1.0


class Core(Protocol):
    """What serves a loaded model: :class:`EngineCore` or :class:`EmbeddingCore`."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def only_decodes(self) -> bool: ...

    @property
    def load(self) -> Load: ...

    @property
    def timeout_s(self) -> float | None: ...

    def close(self) -> None: ...

    def save_due(self) -> None: ...

    def save_all(self, timeout_s: float) -> None: ...

    def prepare_grammars(self) -> None: ...

    def submit(self, message: Submit | Embed) -> list[Event]: ...

    def submit_ready(self) -> list[Event]: ...

    def tokenize(self, message: Tokenize) -> list[Event]: ...

    def detokenize(self, message: Detokenize) -> list[Event]: ...

    def abort(self, request_id: str) -> list[Event]: ...

    def abort_all(self, code: str, message: str) -> list[Event]: ...

    def step(self) -> list[Event]: ...


class GatewayGone(Exception):
    """The gateway closed the socket: nobody is left to serve."""


class CommandSocket:
    """The engine's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader: FrameReader[Command] = FrameReader(Command)
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)

    def wake(self) -> None:
        """Ends a wait for commands, or the next one. May be called on another thread."""
        with contextlib.suppress(BlockingIOError):  # it is woken more often than it looks
            os.write(self._waker, b"\0")

    def receive(self, *, wait: bool, timeout_s: float | None = None) -> list[Command]:
        """The commands that have come; with ``wait``, blocks until there is at least one, or until :meth:`wake`.

        Blocks for at most ``timeout_s``, if it isn't None.

        Raises:
            GatewayGone: the other end is closed.
        """
        commands: list[Command] = []
        while True:
            if wait and not commands and not self._has_come(timeout_s):
                return commands
            try:
                data = self._connection.recv(RECV_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return commands
            except ConnectionError:
                data = b""
            if not data:
                raise GatewayGone
            commands += self._reader.feed(data)

    def _has_come(self, timeout_s: float | None) -> bool:
        """Waits for a command, :meth:`wake` or the time's end; whether it was only a command."""
        readable, _, _ = select.select((self._connection.fileno(), self._woken), (), (), timeout_s)
        if self._woken in readable:
            os.read(self._woken, RECV_BYTES)
            return False
        return bool(readable)

    def send(self, message: Report) -> None:
        try:
            self._connection.sendall(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            raise GatewayGone from None


class Loading:
    """What the gateway and an engine that loads its model say to each other."""

    def __init__(self, commands: CommandSocket, now: Callable[[], float] = time.monotonic) -> None:
        self.received: list[Command] = []
        self.is_gateway_gone = False
        self._commands = commands
        self._now = now
        self._looked_at = -math.inf
        self._ratio = -1.0

    def on_progress(self, ratio: float) -> bool:
        """Tells the gateway; False if it has gone, or wants the engine to stop."""
        now = self._now()
        if ratio >= 1.0 > self._ratio or now - self._looked_at >= PROGRESS_INTERVAL_S:
            self._looked_at = now
            try:
                if ratio > self._ratio:
                    self._ratio = ratio
                    self._commands.send(LoadProgress(ratio))
                self.received += self._commands.receive(wait=False)
            except GatewayGone:
                self.is_gateway_gone = True
        return not (self.is_gateway_gone or any(isinstance(command, Stop) for command in self.received))


class Outbox:
    """Events on their way to the gateway.

    A message costs the gateway and its clients a wake-up each, which on a small machine takes more from the
    computation than the text in it. So text that comes fast waits for what follows; nothing else does.
    """

    def __init__(
        self, send: Callable[[Events], None], interval_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``interval_s``: how long after a message the next one may be held back."""
        self._send = send
        self._interval_s = interval_s
        self._now = now
        self._sent_at = -math.inf
        self._told: WarmTierCounts | None = None
        self._events: list[Event] = []

    def put(self, events: list[Event]) -> None:
        self._events += events

    def flush(self, core: Core) -> None:
        """Sends all that is there."""
        if self._events:
            self._send_all(core, self._now())

    def flush_due(self, core: Core) -> None:
        """Sends what there is unless it may wait for the next step.

        Without events, that there was a step, or what was done on the disk while there was none.
        """
        if not self._events:
            if core.is_idle:
                if core.load.warm_tier is not self._told:
                    self._send_all(core, self._now())
            elif (now := self._now()) - self._sent_at >= SIGN_OF_LIFE_S:
                self._send_all(core, now)
        elif not (core.only_decodes and all(type(event) is Piece for event in self._events)) or self._is_due():
            self._send_all(core, self._now())

    def _is_due(self) -> bool:
        return self._now() - self._sent_at >= self._interval_s

    def _send_all(self, core: Core, now: float) -> None:
        self._sent_at = now
        load = core.load
        self._told = load.warm_tier
        self._send(Events(tuple(self._events), load))
        self._events = []


def run_engine(
    connection: socket.socket,
    load: Callable[[EngineConfig, OnProgress], AbstractContextManager[Backend]],
    load_embedder: Callable[[EngineConfig, OnProgress], AbstractContextManager[Embedder]],
) -> None:
    """Loads the model that the first command names and serves until the gateway says stop or is gone."""
    commands = CommandSocket(connection)
    try:
        config, *rest = commands.receive(wait=True)
        if not isinstance(config, EngineConfig):
            raise ValueError(f"the first command must be the configuration, not {type(config).__name__}")
        loading = Loading(commands)
        keeper = _keeper(config, commands.wake)
        with contextlib.ExitStack() as stack:
            try:
                if config.pooling:
                    embedder = stack.enter_context(load_embedder(config, loading.on_progress))
                    core: Core = EmbeddingCore(embedder, n_batch=config.n_batch)
                    info = embedder.info
                else:
                    backend = stack.enter_context(load(config, loading.on_progress))
                    core = _text_core(config, backend, keeper, commands.wake)
                    info = backend.info
            except ApplianceError as error:
                commands.send(LoadFailed(error.message, isinstance(error, EngineOutOfMemory)))
                return
            except LoadCancelled:
                log.info(logs.event("load_cancelled", pid=os.getpid()))
                return
            stack.callback(core.close)
            loading.on_progress(1.0)
            commands.send(_ready(info))
            core.prepare_grammars()
            log.info(logs.event("engine_ready", pid=os.getpid(), n_ctx=info.n_ctx, device=info.device))
            _serve(core, commands, rest + loading.received, Outbox(commands.send, config.stream_interval_s))
    except GatewayGone:
        log.info(logs.event("gateway_gone", pid=os.getpid()))


def _text_core(config: EngineConfig, backend: Backend, keeper: KVKeeper | None, wake: Callable[[], None]) -> EngineCore:
    if keeper is not None:
        keeper.wait_for_scan(SCAN_WAIT_S)
    return EngineCore(
        backend,
        n_batch=config.n_batch,
        max_running=config.max_running,
        prefix_reuse=config.prefix_reuse,
        on_ready=wake,
        speculation=config.speculation,
        prompt_step_s=config.prompt_step_s,
        longest_token_bytes=config.longest_token_bytes,
        keeper=keeper,
    )


def _keeper(config: EngineConfig, wake: Callable[[], None]) -> KVKeeper | None:
    """Looks what is on the disk while the model loads; None: nothing is kept there."""
    tier = config.warm_tier
    if tier is None or not config.prefix_reuse or config.pooling:
        return None
    key = KVKey(tier.model_sha256, engine_build(), config.type_k, config.type_v)
    return KVKeeper(KVFolder(Path(tier.folder), key, max_bytes=tier.max_bytes), wake)


def _ready(info: BackendInfo) -> Ready:
    return Ready(
        n_ctx=min(info.n_ctx, info.n_ctx_train),
        n_seq_max=info.n_seq_max,
        build=info.build,
        device=info.device,
        buffers=info.buffers,
        anonymous_bytes=info.anonymous_bytes,
        n_gpu_layers=info.n_gpu_layers,
        has_gpu=info.has_gpu,
    )


def _serve(core: Core, commands: CommandSocket, first: list[Command], outbox: Outbox) -> None:
    received = first
    while True:
        if received:  # to see to it may take long
            outbox.flush(core)
        for command in received:
            match command:
                case Submit() | Embed():
                    outbox.put(core.submit(command))
                case Abort(request_id):
                    outbox.put(core.abort(request_id))
                case Tokenize():
                    outbox.put(core.tokenize(command))
                case Detokenize():
                    outbox.put(core.detokenize(command))
                case Stop():
                    outbox.put(core.abort_all(EngineUnavailable.code or "", "the engine is stopping"))
                    outbox.flush(core)
                    core.save_all(SAVE_GRACE_S)
                    return
                case EngineConfig():
                    raise ValueError("an engine is configured once")
        outbox.put(core.submit_ready())
        if not core.is_idle:
            outbox.put(core.step())
        outbox.flush_due(core)
        core.save_due()
        received = commands.receive(wait=core.is_idle, timeout_s=core.timeout_s if core.is_idle else None)
