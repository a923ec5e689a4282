"""``appliance serve``: puts the parts together and runs them."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import ApplianceError, ConfigError, GPUMissing

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from appliance.api.server import ServerOptions
    from appliance.api.state import AppState
    from appliance.cache.store import ResponseCache
    from appliance.hardware.machine import MachineProbe
    from appliance.logs import RecentLines
    from appliance.service.catalog import Catalog
    from appliance.settings import Settings
    from appliance.state.keys import AdminToken, KeyFile
    from appliance.supervisor.budget import Budget
    from appliance.supervisor.planner import Planner
    from appliance.supervisor.spec import Spawn
    from appliance.supervisor.supervisor import First, Supervisor

log = logging.getLogger(__name__)

BACKLOG = 2048
MIN_CACHE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Parts:
    """What a start has made before the web framework is imported."""

    config: Settings
    catalog: Catalog
    budget: Budget
    planner: Planner
    spawn: Spawn
    first: First | None
    machine: MachineProbe
    cache: ResponseCache | None
    keys: KeyFile | None
    admin: AdminToken
    listener: socket.socket
    recent: RecentLines


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
    from appliance.cli.engine import spawner
    from appliance.cli.memory import machine_budget, planner
    from appliance.hardware.machine import MachineProbe
    from appliance.models.store import ModelStore
    from appliance.service.catalog import Catalog
    from appliance.service.machine import folders
    from appliance.state.folder import StateFolder
    from appliance.state.keys import AdminToken, KeyFile

    config = settings.load(host=host, port=port, model=model, auth=auth, log_level=log_level)
    recent = logs.RecentLines()
    logs.configure(config.log_level, config.log_format, recent)
    keys = KeyFile(config.api_keys_file) if config.api_keys_file is not None else None
    _check_published(config, has_keys=keys is not None)
    _check_tls(config)
    with StateFolder(config.state_dir):
        admin = AdminToken(config.state_dir)
        catalog = Catalog(config, ModelStore(config.models_dir, config.image_models_dir))
        machine = MachineProbe(folders(config))
        with _listen(config.host, config.port) as listener:
            parts = Parts(
                config=config,
                catalog=catalog,
                budget=machine_budget(config, machine.gpus),
                planner=planner(config, machine.gpus),
                spawn=spawner(config, log_level=config.log_level, on_log=recent.add),
                first=None,
                machine=machine,
                cache=_response_cache(config),
                keys=keys,
                admin=admin,
                listener=listener,
                recent=recent,
            )
            # The default model loads while this process imports the rest.
            raise typer.Exit(_run(dataclasses.replace(parts, first=_start_first(parts))))


def _start_first(parts: Parts) -> First | None:
    """The default model's engine. None: its GPU is missing, which may change while the server runs.

    Raises ConfigError if the model isn't here, or can't be loaded on this machine.
    """
    from appliance.supervisor.supervisor import First

    try:
        spec = parts.catalog.resolve(None).spec
        fit = parts.planner.fit(spec, parts.budget.rooms(()))
    except GPUMissing as error:
        log.error("gpu_missing: %s", error)
        return None
    except ApplianceError as error:
        raise ConfigError(error.message) from None
    return First(spec, fit, parts.spawn(spec, fit))


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


def _response_cache(config: Settings) -> ResponseCache | None:
    """None: it is off. Raises ConfigError if its limit is no size, or less than a few answers."""
    from appliance.cache.store import ResponseCache
    from appliance.hardware.memory_use import format_bytes, parse_bytes

    if not config.response_cache:
        return None
    max_bytes = parse_bytes(config.response_cache_limit, "response_cache_limit")
    if max_bytes < MIN_CACHE_BYTES:
        raise ConfigError(
            f"response_cache_limit={config.response_cache_limit}: want at least {format_bytes(MIN_CACHE_BYTES)}; "
            "APPLIANCE_RESPONSE_CACHE=false turns the response cache off"
        )
    path = config.response_cache_file or config.state_dir / "responses.db"
    return ResponseCache(path, max_bytes=max_bytes, ttl_s=config.response_cache_ttl_s)


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
    from appliance.addresses import pid_listening_on

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
            holder = pid_listening_on(port)
            raise ConfigError(
                f"port={port} on {host} is in use by {f'pid {holder}' if holder else 'another process'}; "
                f"stop it{f' (kill {holder})' if holder else ''}, or choose another with --port"
            ) from None
        raise ConfigError(f"host={host} port={port}: {error.strerror}") from None
    listener.listen(BACKLOG)
    return listener


def _run(parts: Parts) -> int:
    """The exit status, once the server has been stopped."""
    import uvloop

    return uvloop.run(_serve(parts))


async def _serve(parts: Parts) -> int:
    from appliance.api.state import compose
    from appliance.supervisor.supervisor import Rules, Supervisor

    config = parts.config
    rules = Rules(
        autoload=config.autoload,
        max_wait_s=config.switch_wait_s,
        drain_s=config.switch_drain_s,
        wedged_after_s=config.wedged_after_s,
    )
    supervisor = Supervisor(parts.spawn, parts.budget, parts.planner, rules, first=parts.first)
    state = compose(config, parts.catalog, supervisor, parts.machine, parts.recent, parts.cache, parts.keys)
    if parts.cache is not None:
        parts.cache.start()
    try:
        return await _serve_until_stopped(parts, state, supervisor)
    finally:
        if parts.cache is not None:
            await parts.cache.stop()


async def _serve_until_stopped(parts: Parts, state: AppState, supervisor: Supervisor) -> int:
    from appliance.api.server import Server

    config = parts.config
    server = Server(_app(parts, state), _server_options(config), on_stop=supervisor.drain)
    keeping = asyncio.create_task(state.history.keep())
    serving = asyncio.create_task(server.run_until_stopped(parts.listener, supervisor.stop))
    try:
        await _greet(parts, supervisor)
    except ApplianceError as error:
        is_stopped = server.should_exit
        server.stop()
        await serving
        if is_stopped:
            return 0
        raise ConfigError(f"{parts.catalog.default_name}: {error.message}") from None
    for served in parts.catalog.current():
        if served.settings.preload:
            supervisor.preload(served.spec)
    await serving
    keeping.cancel()
    return 0


async def _greet(parts: Parts, supervisor: Supervisor) -> None:
    """Says where it serves, once the default model is loaded. Raises the error that keeps it from being loaded."""
    from appliance.models.gguf_header import TEXT

    config, (host, port) = parts.config, parts.listener.getsockname()[:2]
    scheme = "https" if config.tls_cert is not None else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{config.root_path}"
    default = parts.catalog.resolve(None)
    try:
        info = await supervisor.load(default.spec)
    except GPUMissing as error:
        supervisor.preload(default.spec)  # as soon as there is a GPU
        typer.echo(f"serving at {url}/v1, but not {default.name}: {error.message}")
        return
    writes_text = default.stored.record.header.kind == TEXT
    hint = f"now try: {_chat_command(url)}" if writes_text else "it takes texts at /v1/embeddings"
    typer.echo(f"ready: {default.name} on {info.device} at {url}/v1 - {hint}")
    if default.stored.note:
        typer.echo(default.stored.note)


def _app(parts: Parts, state: AppState) -> ASGIApp:
    from appliance.api.app import AppOptions, create_app

    config = parts.config
    options = AppOptions(
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
