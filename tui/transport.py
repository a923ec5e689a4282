"""HTTP with the server, and its failures as sentences."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from tui.client import Comment, Kind, ServerError, Target

CONNECT_TIMEOUT_S = 5.0


class Transport:
    """All methods raise :class:`ServerError`, as does making one for an address that is none."""

    def __init__(self, url: str, target: Target) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                trust_env=False,
                verify=ssl.create_default_context(cafile=target.ca_file),
            )
        except OSError as error:
            raise ServerError(f"The certificate {target.ca_file} can't be read: {error}.", "unreachable") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerError(f"{target.url} is no address of a server: {error}.", "unreachable") from None

    async def close(self) -> None:
        await self._http.aclose()

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float | None
    ) -> httpx.Response:
        """The whole answer. ``timeout_s`` None: it may take as long as it wants."""
        try:
            limits = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
            response = await self._http.request(method, path, json=body, timeout=limits)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._broken(error) from None
        if response.status_code != 200:
            raise _refused(response)
        return response

    async def stream(
        self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str] | None
    ) -> AsyncGenerator[dict[str, Any] | Comment | httpx.Headers, None]:
        """See :meth:`tui.client.Server.stream`."""
        try:
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            async with self._http.stream(method, path, json=body, headers=headers, timeout=timeout) as response:
                is_stream = response.headers.get("Content-Type", "").startswith("text/event-stream")
                if response.status_code != 200 or not is_stream:
                    await response.aread()
                    raise _refused(response)
                yield response.headers
                async for line in _lines(response):
                    if line.startswith(":"):
                        yield Comment(line[1:].strip())
                    if not line.startswith("data: "):
                        continue
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if not isinstance(event, dict):
                        raise ValueError("an event is no object")
                    if isinstance(error := event.get("error"), dict):
                        message = _sentence(str(error.get("message")))
                        raise ServerError(message, "refused", code=error.get("code"))
                    yield event
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._broken(error) from None
        raise ServerError("The server closed the connection before the answer was complete.", "broken")

    def _broken(self, error: Exception) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL):
            return ServerError(f"No server answers at {self.url}.", "unreachable")
        if isinstance(error, httpx.TimeoutException):
            return ServerError(f"The server at {self.url} did not answer in time.", "broken")
        if isinstance(error, httpx.HTTPError):
            return ServerError(f"The connection to {self.url} broke.", "broken")
        return ServerError(f"What the server at {self.url} sends is no answer of the appliance.", "broken")


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines as server-sent events have them; httpx would also end one at U+2028 and others, which JSON may hold."""
    begun = b""
    async for data in response.aiter_bytes():
        *lines, begun = (begun + data).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode()


def _refused(response: httpx.Response) -> ServerError:
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        url, status = response.request.url, response.status_code
        message, code = f"What answers at {url} is not the appliance: it gave status {status} and no reason", None
    kind: Kind = "unauthorized" if response.status_code in (401, 403) else "refused"
    wanted = response.headers.get("Retry-After", "")
    return ServerError(
        _sentence(message),
        kind,
        status=response.status_code,
        code=code,
        retry_after_s=int(wanted) if wanted.isdecimal() else None,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
