"""Renders every error in OpenAI's envelope."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from appliance.errors import ApplianceError, InvalidRequest
from appliance.schemas.refusal import refusal

# As nginx logs it; no standard status says that the client has closed the connection.
CLIENT_LEFT_STATUS = 499

log = logging.getLogger(__name__)


class ClientLeft(Exception):
    """Nobody is left to answer."""


def envelope(error: ApplianceError) -> dict[str, Any]:
    """The body of an error's answer."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApplianceError, _appliance_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientLeft, _client_left)
    app.add_exception_handler(Exception, _unexpected_error)


def respond(error: ApplianceError, *, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(error.retry_after_s)
    body = orjson.dumps(envelope(error))
    return Response(body, error.status, media_type="application/json", headers=all_headers)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT_STATUS)  # for the log: nobody reads it


async def _appliance_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApplianceError)
    return respond(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if details[0]["type"] == "json_invalid":
        reason = details[0].get("ctx", {}).get("error", "")
        return respond(InvalidRequest(f"the body is no valid JSON: {reason}"))
    # FastAPI's places begin with the part of the request.
    return respond(refusal([{**detail, "loc": detail["loc"][1:]} for detail in details]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    rendered = ApplianceError(f"{request.method} {request.url.path}: {error.detail}")
    rendered.status = error.status_code
    rendered.kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    rendered.code = HTTPStatus(error.status_code).name.lower()
    return respond(rendered, headers=error.headers)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("unexpected_error", exc_info=error)
    return respond(ApplianceError("an unexpected error; the server's log says more"))
