"""What a client may take before a request reaches a handler: the size of its body, and time to send it."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.api.errors import respond
from appliance.errors import BodyTooLarge, InvalidRequest

# A body that stops coming for so long is given up.
BODY_STALL_S = 30.0


class BodyLimit:
    """ASGI middleware: refuses a body of more than ``max_bytes``, by its header or when it has come to that."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLarge(f"the body is larger than {self._max_bytes} bytes; max_body_bytes is its limit")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes:
            await respond(error)(scope, receive, send)
            return
        n_bytes = 0
        is_complete = False

        async def limited() -> Message:
            nonlocal n_bytes, is_complete
            if is_complete:  # nothing but a disconnect follows
                return await receive()
            try:
                async with asyncio.timeout(BODY_STALL_S):
                    message = await receive()
            except TimeoutError:
                raise InvalidRequest(f"the body did not come within {BODY_STALL_S:g} s") from None
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise error
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)
