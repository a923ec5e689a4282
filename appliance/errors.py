"""Errors that know how they are answered.

Every error that may reach a client or an operator is an :class:`ApplianceError`: it carries the HTTP status,
OpenAI's error type and code, and the request field it is about. ``appliance.api.errors`` renders it, the
command line prints its message. A message says what is wrong, with the value, and how to mend it.
"""

from __future__ import annotations


class ApplianceError(Exception):
    status = 500
    kind = "server_error"
    code: str | None = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class ConfigError(ApplianceError):
    """A setting, or something on the machine, that keeps the appliance from starting."""

    code = "config_error"


class InvalidRequest(ApplianceError):
    status, kind, code = 400, "invalid_request_error", "invalid_value"


class ContextLengthExceeded(ApplianceError):
    status, kind, code = 400, "invalid_request_error", "context_length_exceeded"


class ModelNotFound(ApplianceError):
    status, kind, code = 404, "invalid_request_error", "model_not_found"


class RequestCancelled(ApplianceError):
    status, kind, code = 409, "invalid_request_error", "request_cancelled"


class Unauthorized(ApplianceError):
    status, kind, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(ApplianceError):
    status, kind, code = 403, "invalid_request_error", "forbidden"


class NotFound(ApplianceError):
    status, kind, code = 404, "invalid_request_error", "not_found"


class BodyTooLarge(ApplianceError):
    status, kind, code = 413, "invalid_request_error", "body_too_large"


class QueueFull(ApplianceError):
    status, kind, code = 429, "rate_limit_error", "queue_full"


class NotCached(ApplianceError):
    """The request wanted an answer from the response cache only, and there is none that it allows."""

    status, kind, code = 504, "server_error", "not_cached"


class ResponseCacheOff(ApplianceError):
    status, kind, code = 409, "invalid_request_error", "response_cache_off"


class ResponseCacheFailed(ApplianceError):
    """Its file can't be worked with at the moment. No request for an answer ever fails so."""

    status, kind, code = 503, "server_error", "response_cache_failed"


class EngineUnavailable(ApplianceError):
    """The model's engine is loading, restarting or stopping; the same request may succeed later."""

    status, kind, code = 503, "server_error", "engine_unavailable"


class DoesNotFit(ApplianceError):
    """The model doesn't fit into the memory that there is, as it is set up."""

    status, kind, code = 503, "server_error", "does_not_fit"


class GPUMissing(DoesNotFit):
    """The model wants a GPU, and there is none to compute on: never a slow success."""

    status, kind, code = 503, "server_error", "gpu_missing"


class EngineCrashed(ApplianceError):
    """The engine process ended while it worked on this request."""

    status, kind, code = 500, "server_error", "engine_crashed"


class EngineStopped(EngineCrashed):
    """The engine process was stopped while it worked on this request."""

    status, kind, code = 503, "server_error", "engine_unavailable"


class EngineFailed(ApplianceError):
    """The engine could not compute this request, and says why."""

    status, kind, code = 500, "server_error", "engine_error"


class SchemaViolation(ApplianceError):
    """A text was to follow a JSON schema and doesn't: a fault of ours, which must not leave as a success."""

    status, kind, code = 500, "server_error", "schema_violation"


class EngineOutOfMemory(EngineFailed):
    """A model could not be loaded for want of memory: with fewer layers on the GPU, or less context, it may be."""


# What an engine process may answer a request with: its messages carry the code, not the class.
ENGINE_ERRORS: dict[str, type[ApplianceError]] = {
    cls.code: cls
    for cls in (InvalidRequest, ContextLengthExceeded, EngineUnavailable, EngineFailed)
    if cls.code is not None
}
