"""The server, over HTTP: its admin API and its OpenAI-compatible one."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel

CONNECT_TIMEOUT_S = 5.0
# An answer of the admin API; streams have no limit, for a long prompt may take minutes.
READ_TIMEOUT_S = 30.0

Kind = Literal["unreachable", "unauthorized", "refused", "broken"]
Schema = TypeVar("Schema", bound=BaseModel)


class ServerError(Exception):
    """What went wrong, as one sentence for people.

    ``kind``: nobody answers, the key isn't good for it, the server refuses this request, or the connection broke in the
    middle. ``status``, ``code`` and ``retry_after_s`` are the answer's, if there was one.
    """

    def __init__(
        self,
        message: str,
        kind: Kind,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment in a stream, such as ``prefill 512/3000``."""

    text: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, and what is shown to it. ``ca_file``: a certificate to trust beside the system's."""

    url: str
    key: str | None = None
    ca_file: Path | None = None


class Server:
    """Close it with :meth:`close`. All methods raise :class:`ServerError`."""

    def __init__(self, target: Target) -> None:
        self.url = target.url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                trust_env=False,
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                verify=ssl.create_default_context(cafile=target.ca_file),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerError(f"{target.url} is no address of a server: {error}", "unreachable") from None

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, schema: type[Schema], *, timeout_s: float | None = READ_TIMEOUT_S) -> Schema:
        """``timeout_s`` None: it may take as long as it wants."""
        return self._parsed(await self._request("GET", path, timeout_s=timeout_s), schema)

    async def post(self, path: str, schema: type[Schema], body: BaseModel | None = None) -> Schema:
        """Takes as long as the server takes: loading a model may take minutes."""
        content = None if body is None else body.model_dump(exclude_none=True)
        return self._parsed(await self._request("POST", path, content, timeout_s=None), schema)

    async def delete(self, path: str) -> None:
        await self._request("DELETE", path)

    async def stream(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any] | Comment | httpx.Headers, None]:
        """The answer's headers, and then its events and comments as they come, to its end.

        An error event inside the stream is raised, too.
        """
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

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = READ_TIMEOUT_S
    ) -> httpx.Response:
        try:
            limits = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
            response = await self._http.request(method, path, json=body, timeout=limits)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._broken(error) from None
        if response.status_code != 200:
            raise _refused(response)
        return response

    def _parsed(self, response: httpx.Response, schema: type[Schema]) -> Schema:
        try:
            return schema.model_validate_json(response.content)
        except ValueError:
            message = f"{self.url} answers otherwise than this terminal UI expects: its version may be another one."
            raise ServerError(message, "refused", status=response.status_code) from None

    def _broken(self, error: Exception) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL):
            return ServerError(f"No server answers at {self.url}.", "unreachable")
        return ServerError(f"The connection to {self.url} broke: {error or type(error).__name__}.", "broken")


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
