"""What a client may take before a request reaches a handler: the size of its body, and time to send it."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.api.errors import respond
from appliance.errors import ApplianceError, BodyTooLarge, InvalidRequest

# A body that stops coming for so long is given up.
BODY_STALL_S = 30.0
# How much of a body that is too large is still taken, in times of the limit, and for how long.
DISCARD_FACTOR = 4
DISCARD_S = 5.0


class BodyLimit:
    """ASGI middleware: refuses a body of more than ``max_bytes``, by its header or when it has come to that."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_large = BodyTooLarge(f"the body is larger than {self._max_bytes} bytes; max_body_bytes is its limit")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes:
            await self._discard_body(receive)
            await respond(too_large)(scope, receive, send)
            return
        n_bytes = 0
        is_complete = False
        failure: ApplianceError | None = None
        is_answered = False

        async def limited_receive() -> Message:
            nonlocal n_bytes, is_complete, failure
            if is_complete:  # nothing but a disconnect follows
                return await receive()
            try:
                async with asyncio.timeout(BODY_STALL_S):
                    message = await receive()
            except TimeoutError:
                failure = InvalidRequest(f"the body did not come within {BODY_STALL_S:g} s")
                raise failure from None
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                await self._discard_body(receive)
                failure = too_large
                raise failure
            is_complete = not message.get("more_body", False)
            return message

        async def own_send(message: Message) -> None:
            """FastAPI takes every error while it reads a body for bad JSON; the answer is ours."""
            nonlocal is_answered
            if failure is None:
                await send(message)
            elif not is_answered:
                is_answered = True
                await respond(failure, headers={"Connection": "close"})(scope, receive, send)

        await self._app(scope, limited_receive, own_send)

    async def _discard_body(self, receive: Receive) -> None:
        """Takes the rest of a body, within bounds: a client that is cut off while it sends never reads the answer."""
        n_left = DISCARD_FACTOR * self._max_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while n_left > 0:
                    message = await receive()
                    n_left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
