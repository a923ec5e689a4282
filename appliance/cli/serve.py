"""``appliance serve``: puts the parts together and runs them."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import ApplianceError, ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from appliance.api.server import ServerOptions
    from appliance.engine.client import EngineProcess
    from appliance.models.store import StoredModel
    from appliance.settings import Settings
    from appliance.state.keys import AdminToken, KeyFile
    from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Parts:
    """What a start has made before the web framework is imported."""

    config: Settings
    stored: StoredModel
    keys: KeyFile | None
    admin: AdminToken
    listener: socket.socket
    spawn: partial[EngineProcess]
    first: EngineProcess


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one. [default: 8080]")] = None,
    model: Annotated[str | None, typer.Option(help="Model to serve. [default: the first in models.lock]")] = None,
    auth: Annotated[str | None, typer.Option(help="keys, or off to serve others without. [default: keys]")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")] = None,
) -> None:
    """Serve the OpenAI-compatible API until stopped.

    Everything else is set by APPLIANCE_* variables or in appliance.toml; the README lists them.
    """
    from appliance import logs, settings
    from appliance.cli.engine import engine_config
    from appliance.engine.client import EngineProcess
    from appliance.models.lock import HubSource, read_lock
    from appliance.models.store import ModelStore
    from appliance.state.current import CurrentVersions
    from appliance.state.folder import StateFolder
    from appliance.state.keys import AdminToken, KeyFile

    config = settings.load(host=host, port=port, model=model, auth=auth, log_level=log_level)
    logs.configure(config.log_level, config.log_format)
    keys = KeyFile(config.api_keys_file) if config.api_keys_file is not None else None
    _check_published(config, has_keys=keys is not None)
    _check_tls(config)
    with StateFolder(config.state_dir):
        admin = AdminToken(config.state_dir)
        entry = read_lock(config.models_lock).entry(config.model)
        choice = CurrentVersions(config.state_dir).get(entry.name)
        store = ModelStore(config.models_dir, config.image_models_dir)
        stored = store.find(entry, choice.current if choice is not None else None)
        if stored is None:
            verb = "build" if isinstance(entry.versions[0].source, HubSource) else "fetch"
            raise ConfigError(
                f"the model {entry.name} is not in {config.models_dir}; run `appliance models {verb} {entry.name}`"
            )
        with _listen(config.host, config.port) as listener:
            spawn = partial(
                EngineProcess,
                engine_config(config, stored),
                log_level=config.log_level,
                log_format=config.log_format,
            )
            first = spawn()  # loads while this process imports the rest
            raise typer.Exit(_run(Parts(config, stored, keys, admin, listener, spawn, first)))


def _check_published(config: Settings, *, has_keys: bool) -> None:
    """Whoever can reach the server can use it: others only with keys, unless that is said to be wanted."""
    from appliance.addresses import is_loopback

    address = config.published_address or config.host
    if is_loopback(address) or has_keys:
        return
    if config.auth == "keys":
        raise ConfigError(
            f"the server would be reachable at {address} without API keys; set APPLIANCE_API_KEYS_FILE, "
            "listen on 127.0.0.1, or say --auth off"
        )
    log.warning("auth_off: everybody who reaches %s can use this server", address)


def _check_tls(config: Settings) -> None:
    import ssl

    if config.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_cert={config.tls_cert} tls_key={config.tls_key} can't be used: {error}") from None


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError if the address can't be had, naming who has it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"host={host}: want a name or an address of this machine ({error})") from None
    family, _, _, _, address = found[0]
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


def _run(parts: Parts) -> int:
    """The exit status, once the server has been stopped."""
    import uvloop

    return uvloop.run(_serve(parts))


async def _serve(parts: Parts) -> int:
    from appliance.api.server import Server
    from appliance.supervisor.supervisor import Supervisor

    config, stored = parts.config, parts.stored
    supervisor = Supervisor(parts.spawn, parts.first, max_open=config.max_running + config.max_waiting)
    server = Server(_app(parts, supervisor), _server_options(config), on_stop=supervisor.drain)
    serving = asyncio.create_task(server.run_until_stopped(parts.listener, supervisor.stop))
    try:
        info = await supervisor.wait_until_loaded()
    except ApplianceError as error:
        is_stopped = server.should_exit
        server.stop()
        await serving
        if is_stopped:
            return 0
        raise ConfigError(f"{stored.name}: {error.message}") from None
    host, port = parts.listener.getsockname()[:2]
    scheme = "https" if config.tls_cert is not None else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{config.root_path}"
    typer.echo(f"ready: {stored.name} on {info.device} at {url}/v1 - now try: {_chat_command(url)}")
    if stored.note:
        typer.echo(stored.note)
    await serving
    return 0


def _app(parts: Parts, supervisor: Supervisor) -> ASGIApp:
    from appliance.api.app import AppOptions, create_app
    from appliance.api.state import AppState
    from appliance.service.activity import Activity
    from appliance.service.inference import Inference
    from appliance.service.metrics import Metrics

    config = parts.config
    activity = Activity(Metrics(parts.stored.name, lambda: supervisor.load))
    state = AppState(parts.stored, supervisor, activity, Inference(supervisor, parts.stored, activity))
    options = AppOptions(
        keys=parts.keys,
        admin=parts.admin,
        allowed_hosts=tuple(config.allowed_hosts),
        cors_origins=tuple(config.cors_origins),
        max_body_bytes=config.max_body_bytes,
    )
    return create_app(state, options)


def _server_options(config: Settings) -> ServerOptions:
    from appliance.api.server import ServerOptions

    return ServerOptions(
        drain_s=config.drain_s,
        max_connections=config.max_connections,
        root_path=config.root_path,
        trusted_proxies=",".join(config.trusted_proxies),
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
    )


def _chat_command(url: str) -> str:
    """What to type to chat with this server, as this program was called."""
    from appliance import settings

    program = "appliance" if shutil.which("appliance") else sys.argv[0]
    if program.endswith("__main__.py"):
        program = "python -m appliance"
    default = settings.load()
    is_default = url == f"http://{default.host}:{default.port}"
    return f"{program} chat {'' if is_default else f'--url {url} '}'Hello!'"
