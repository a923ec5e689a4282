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
    # A field of several types has an error for each of them; the one that got furthest says what is wrong.
    first = _place(details[0])
    same_field = [detail for detail in details if _place(detail)[: len(first)] == first]
    detail = max(same_field, key=lambda d: (not d["type"].endswith("_type"), len(_place(d))))
    name = ".".join(_place(detail))
    match detail["type"]:
        case "json_invalid":
            reason = detail.get("ctx", {}).get("error", "")
            return respond(InvalidRequest(f"the body is no valid JSON: {reason}"))
        case "model_attributes_type" | "dict_type" if not name:
            message = "the body must be a JSON object, sent with Content-Type: application/json"
        case "missing":
            message = f"{name}: is required" if name else "the body must be a JSON object"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            message = f"{name}: {message}" if name else message
        case _:
            message = f"{name or 'body'}: want {detail['msg'].removeprefix('Input should be ')}"
    return respond(InvalidRequest(message, param=name or None))


def _place(detail: Mapping[str, Any]) -> list[str]:
    """Where in the body an error is, without pydantic's names for the members of a union."""
    steps = [str(step) for step in detail["loc"][1:]]
    return [
        step
        for step in steps
        if step != "str" and "[" not in step and not step.startswith(("constrained-", "function-"))
    ]


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
