"""``appliance serve``: puts the parts together and runs them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import ApplianceError, ConfigError

if TYPE_CHECKING:
    from appliance.engine.client import EngineProcess
    from appliance.engine.messages import EngineConfig
    from appliance.models.store import StoredModel
    from appliance.settings import Settings

BACKLOG = 2048


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one. [default: 8080]")] = None,
    model: Annotated[str | None, typer.Option(help="Model to serve. [default: the first in models.lock]")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")] = None,
) -> None:
    """Serve the OpenAI-compatible API until stopped.

    Everything else is set by APPLIANCE_* variables or in appliance.toml; the README lists them.
    """
    from appliance import logs, settings
    from appliance.engine.client import EngineProcess
    from appliance.models.lock import read_lock
    from appliance.models.store import ModelStore
    from appliance.state.folder import StateFolder

    config = settings.load(host=host, port=port, model=model, log_level=log_level)
    logs.configure(config.log_level)
    with StateFolder(config.state_dir):
        entry = read_lock(config.models_lock).entry(config.model)
        stored = ModelStore(config.models_dir).find(entry)
        if stored is None:
            raise ConfigError(
                f"the model {entry.name} is not in {config.models_dir}; run `appliance models fetch {entry.name}`"
            )
        with _listen(config.host, config.port) as listener:
            spawn = partial(EngineProcess, _engine_config(config, stored), log_level=config.log_level)
            first = spawn()  # loads while this process imports the rest
            raise typer.Exit(_run(config, stored, spawn, first, listener))


def _engine_config(config: Settings, stored: StoredModel) -> EngineConfig:
    from appliance.engine.messages import EngineConfig

    return EngineConfig(
        model_path=str(stored.path),
        tensor_types=stored.record.header.tensor_types,
        n_ctx=config.n_ctx or 0,
        n_batch=config.n_batch,
        n_threads=config.n_threads or len(os.sched_getaffinity(0)),
        n_gpu_layers=config.n_gpu_layers,
        max_running=config.max_running,
        prefix_reuse=config.prefix_reuse,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError if the address can't be had, naming who has it."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f"host={host}: {error.strerror}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            holder = _pid_listening_on(port)
            raise ConfigError(
                f"port={port} on {host} is in use by {f'pid {holder}' if holder else 'another process'}; "
                f"stop it{f' (kill {holder})' if holder else ''}, or choose another with --port"
            ) from None
        raise ConfigError(f"host={host} port={port}: {error.strerror}") from None
    listener.listen(BACKLOG)
    return listener


def _pid_listening_on(port: int) -> int | None:
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    listening = (c for c in connections if c.status == psutil.CONN_LISTEN)
    return next((c.pid for c in listening if getattr(c.laddr, "port", None) == port), None)


def _run(
    config: Settings,
    stored: StoredModel,
    spawn: partial[EngineProcess],
    first: EngineProcess,
    listener: socket.socket,
) -> int:
    """The exit status, once the server has been stopped."""
    import uvloop

    return uvloop.run(_serve(config, stored, spawn, first, listener))


async def _serve(
    config: Settings,
    stored: StoredModel,
    spawn: partial[EngineProcess],
    first: EngineProcess,
    listener: socket.socket,
) -> int:
    from appliance.api.app import create_app
    from appliance.api.server import Server
    from appliance.api.state import AppState
    from appliance.service.chat import ChatService
    from appliance.supervisor.supervisor import Supervisor

    supervisor = Supervisor(spawn, first, max_open=config.max_running + config.max_waiting)
    app = create_app(AppState(stored, supervisor, ChatService(supervisor, stored)))
    server = Server(app, drain_s=config.drain_s)
    serving = asyncio.create_task(server.run_until_stopped(listener, supervisor.stop))
    try:
        info = await supervisor.wait_until_loaded()
    except ApplianceError as error:
        is_stopped = server.should_exit
        server.stop()
        await serving
        if is_stopped:
            return 0
        raise ConfigError(f"{stored.name}: {error.message}") from None
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    typer.echo(f"ready: {stored.name} on {info.device} at {url}/v1 - now try: {_chat_command(url)}")
    if stored.note:
        typer.echo(stored.note)
    await serving
    return 0


def _chat_command(url: str) -> str:
    """What to type to chat with this server, as this program was called."""
    from appliance import settings

    program = "appliance" if shutil.which("appliance") else sys.argv[0]
    if program.endswith("__main__.py"):
        program = "python -m appliance"
    default = settings.load()
    is_default = url == f"http://{default.host}:{default.port}"
    return f"{program} chat {'' if is_default else f'--url {url} '}'Hello!'"
