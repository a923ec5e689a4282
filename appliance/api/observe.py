"""Each request's id, its one log line, and its count in the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance import logs
from appliance.api.access import path_of
from appliance.service.context import RequestContext
from appliance.service.metrics import Metrics

log = logging.getLogger(__name__)

# An id that came in is passed on if it is harmless in a header and in a log line.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Asked for every few seconds, and nobody wants to read of it.
_QUIET = ("/health/", "/metrics")


class Observer:
    """ASGI middleware, outermost: makes the request's context and says what came of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        context = RequestContext(request_id, arrived_at=loop.time())
        # Streams send what follows their start by the server's own function, past what stands around the routes.
        scope.setdefault("state", {}).update(context=context, server_send=send)
        header = (b"x-request-id", request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # Routes, not paths: what a stranger makes up must not become a label.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.saw_response(route, status)
            if not path_of(scope).startswith(_QUIET):
                self._log(scope, context, status, loop.time() - context.arrived_at)

    def _log(self, scope: Scope, context: RequestContext, status: int, duration_s: float) -> None:
        # Who watches the server asks every second, and in its log would see nothing but that.
        is_watching = scope["method"] == "GET" and path_of(scope).startswith("/admin/") and status < 400
        level = logging.DEBUG if is_watching else logging.INFO
        if not log.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "duration_s": duration_s,
            "request_id": context.request_id,
            "key": context.key,
        }
        if context.outcome != "-":
            fields |= {
                "model": context.model,
                "outcome": context.outcome,
                "cache": context.cache,
                "prompt_tokens": context.n_prompt,
                "cached_tokens": context.n_cached,
                "completion_tokens": context.n_completion,
            }
            if context.ttft_s is not None:
                fields["ttft_s"] = context.ttft_s
        log.log(level, logs.event("request", **fields))
