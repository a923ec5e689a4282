"""Who may call what: the Host header, API keys, the admin token.

Each route's access is declared here by its path; what is not declared is refused, and a test walks all routes.
"""

from __future__ import annotations

from enum import Enum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.addresses import is_address
from appliance.api.errors import respond
from appliance.errors import ApplianceError, Forbidden, NotFound, Unauthorized
from appliance.service.context import RequestContext
from appliance.state.keys import AdminToken, KeyFile


class Access(Enum):
    OPEN = "open"
    INFERENCE = "inference"
    ADMIN = "admin"


# By the first part of the path.
ACCESS = {
    "health": Access.OPEN,
    "metrics": Access.OPEN,
    "v1": Access.INFERENCE,
    "docs": Access.INFERENCE,
    "openapi.json": Access.INFERENCE,
    "admin": Access.ADMIN,
}


def path_of(scope: Scope) -> str:
    """The path below the root path, which uvicorn puts before every path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def access_of(path: str) -> Access | None:
    """What it takes to call a path; None if nothing stands there."""
    return ACCESS.get(path.lstrip("/").split("/", 1)[0])


class Guard:
    """ASGI middleware. ``keys`` None: inference needs no key. ``hosts``: names that Host may hold beside addresses."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile | None, admin: AdminToken, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._keys = keys
        self._admin = admin
        self._hosts = {host.lower() for host in (*hosts, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except ApplianceError as error:
            headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
            await respond(error, headers=headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        path = path_of(scope)
        access = access_of(path)
        # Probes and scrapers call by whatever name; they learn nothing secret.
        if access is Access.OPEN:
            return
        self._check_host(headers.get("host", ""))
        if access is None:
            raise NotFound(f"{scope['method']} {path}: not found")
        context: RequestContext = scope["state"]["context"]
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if token and self._admin.matches(token):
            context.key = context.scope = context.tenant = "admin"
            return
        if access is Access.ADMIN:
            if not token:
                raise Unauthorized(f"the admin API wants the token in {self._admin.path}, as 'Authorization: Bearer …'")
            raise Forbidden("this key may not use the admin API; it takes the admin token")
        if self._keys is None:
            return
        if not token:
            raise Unauthorized("an API key is wanted, as 'Authorization: Bearer …'")
        key = self._keys.find(token)
        if key is None:
            raise Unauthorized("this API key is not known")
        context.key, context.scope = key.name, key.scope
        context.tenant, context.weight = key.id, key.weight

    def _check_host(self, host: str) -> None:
        """A page on the internet can have its name point here, but not change the name that a browser sends."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() in self._hosts or is_address(name.strip("[]")):
            return
        raise Forbidden(f"Host {host[:100]!r} is not allowed; add the name to APPLIANCE_ALLOWED_HOSTS")
