"""The HTTP client of the commands that talk to a running server."""

from __future__ import annotations

import json
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

import httpx

from appliance import settings
from appliance.errors import ApplianceError

CONNECT_TIMEOUT_S = 5.0


class ServerError(ApplianceError):
    """The server can't be reached, or answered with an error."""


class Client:
    def __init__(self, url: str | None) -> None:
        if url is None:
            config = settings.load()
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
            url = f"http://{host}:{config.port}"
        self._url = url.rstrip("/").removesuffix("/v1")
        # A long prompt may take minutes until the first token; only connecting has a limit.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(base_url=self._url, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get_json(self, path: str, *, accept: tuple[int, ...] = (200,)) -> Any:
        """Raises ServerError."""
        try:
            response = self._http.get(path)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code not in accept:
            raise ServerError(_message(response))
        return response.json()

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer. Raises ServerError, also for one that comes inside the stream."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise ServerError(_message(response))
                for line in response.iter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if "error" in event:
                        raise ServerError(event["error"]["message"])
                    yield event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        raise ServerError("the server closed the connection before the answer was complete")

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerError(
                f"no server answers at {self._url}; start one with `appliance serve`, or name it with --url"
            )
        return ServerError(f"the connection to {self._url} broke: {error or type(error).__name__}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}: this is not the appliance"
