"""The server, over HTTP: its admin API and its OpenAI-compatible one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import httpx
    from pydantic import BaseModel

    from tui.transport import Transport

# An answer of the admin API; streams have no limit, for a long prompt may take minutes.
READ_TIMEOUT_S = 30.0

Kind = Literal["unreachable", "unauthorized", "refused", "broken"]
Schema = TypeVar("Schema", bound="BaseModel")


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
        self._target = target

    @cached_property
    def _transport(self) -> Transport:
        from tui.transport import Transport  # loading it takes as long as drawing the first screen, which comes first

        return Transport(self.url, self._target)

    async def close(self) -> None:
        if "_transport" in vars(self):
            await self._transport.close()

    async def get(self, path: str, schema: type[Schema], *, timeout_s: float | None = READ_TIMEOUT_S) -> Schema:
        """``timeout_s`` None: it may take as long as it wants."""
        return self._parsed(await self._transport.request("GET", path, timeout_s=timeout_s), schema)

    async def post(self, path: str, schema: type[Schema], body: BaseModel | None = None) -> Schema:
        """Takes as long as the server takes: loading a model may take minutes."""
        content = None if body is None else body.model_dump(exclude_none=True)
        return self._parsed(await self._transport.request("POST", path, content, timeout_s=None), schema)

    async def delete(self, path: str) -> None:
        await self._transport.request("DELETE", path, timeout_s=READ_TIMEOUT_S)

    def stream(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any] | Comment | httpx.Headers, None]:
        """The answer's headers, and then its events and comments as they come, to its end.

        An error event inside the stream is raised, too.
        """
        return self._transport.stream(method, path, body, headers)

    def _parsed(self, response: httpx.Response, schema: type[Schema]) -> Schema:
        try:
            return schema.model_validate_json(response.content)
        except ValueError:
            message = f"{self.url} answers otherwise than this terminal UI expects: its version may be another one."
            raise ServerError(message, "refused", status=response.status_code) from None
