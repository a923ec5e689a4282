"""The HTTP client of the commands that talk to a running server."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self

import httpx

from appliance import settings
from appliance.cli.target import default_url, key
from appliance.errors import ApplianceError

CONNECT_TIMEOUT_S = 5.0


class ServerError(ApplianceError):
    """The server can't be reached, or answered with an error, whose status is its own."""


class Client:
    """Sends the key in APPLIANCE_API_KEY, or else the admin token of the state folder, if it can be read."""

    def __init__(self, url: str | None) -> None:
        config = settings.load()
        url = url or default_url(config)
        self._url = url.rstrip("/").removesuffix("/v1")
        # A long prompt may take minutes until the first token; only connecting has a limit.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        # The server's own certificate, where this machine has it, is one to trust.
        verify = ssl.create_default_context(cafile=config.tls_cert)
        try:
            self._http = httpx.Client(
                base_url=self._url, timeout=timeout, trust_env=False, headers=_authorization(config), verify=verify
            )
        except httpx.InvalidURL as error:
            raise ServerError(f"--url {url}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get_json(self, path: str, *, accept: tuple[int, ...] = (200,)) -> Any:
        """Raises ServerError."""
        return self._json("GET", path, accept)

    def delete_json(self, path: str) -> Any:
        """Raises ServerError."""
        return self._json("DELETE", path, (200,))

    def post_json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Raises ServerError."""
        return self._json("POST", path, (200,), body)

    def _json(self, method: str, path: str, accept: tuple[int, ...], body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._http.request(method, path, **_json_body(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if response.status_code not in accept:
            raise self._refused(response)
        return response.json()

    def follow(self, path: str) -> Generator[dict[str, Any], None, None]:
        """Events for as long as the server sends them. Raises ServerError."""
        return self._events("GET", path, None, lambda comment: None)

    def stream(
        self, path: str, body: dict[str, Any] | bytes, on_comment: Callable[[str], None] = lambda comment: None
    ) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer; comments between them go to ``on_comment``. ``body``: bytes are JSON.

        Raises:
            ServerError: also for an error that comes inside the stream.
        """
        return self._events("POST", path, body, on_comment)

    def _events(
        self, method: str, path: str, body: dict[str, Any] | bytes | None, on_comment: Callable[[str], None]
    ) -> Generator[dict[str, Any], None, None]:
        try:
            with self._http.stream(method, path, **_json_body(body)) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if line.startswith(":"):
                        on_comment(line[1:].strip())
                    if not line.startswith("data: "):
                        continue
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if isinstance(event.get("error"), dict):
                        raise ServerError(event["error"]["message"])
                    yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        raise ServerError("the server closed the connection before the answer was complete")

    def _refused(self, response: httpx.Response) -> ServerError:
        message = _message(response)
        if response.status_code == 401 and "Authorization" not in self._http.headers:
            message += (
                f"; there is none in {settings.load().state_dir}: run this as the server's user and with its "
                f"APPLIANCE_STATE_DIR, or set {settings.KEY_VARIABLE}"
            )
        error = ServerError(message)
        error.status = response.status_code
        return error

    def _unreachable(self, error: httpx.HTTPError | httpx.InvalidURL) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerError(
                f"no server answers at {self._url}; start one with `appliance serve`, or name it with --url"
            )
        return ServerError(f"the connection to {self._url} broke: {error or type(error).__name__}")


def _authorization(config: settings.Settings) -> dict[str, str]:
    found = key(config)
    return {"Authorization": f"Bearer {found}"} if found else {}


def _json_body(body: dict[str, Any] | bytes | None) -> dict[str, Any]:
    """As arguments of httpx, whose own encoder fails on arguments of a command that are no text."""
    if body is None:
        return {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}: this is not the appliance"
