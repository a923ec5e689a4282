"""The wire types of ``/admin/cache``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from appliance.schemas.sampling import Text

MAX_WARM_REQUESTS = 256


def _is_given(name: str) -> str:
    if not name:  # it must not be taken for one that was left out, which means all
        raise ValueError("is empty")
    return name


Name = Annotated[Text, AfterValidator(_is_given)]


class CacheStatus(BaseModel):
    """The response cache's file, and what it did since the start. Counts are of prompts.

    ``problem`` says why no answer can be kept at the moment. ``saved_s`` is how long it took to compute what hits and
    joins were given. ``unkept`` answers could not be written, ``unread`` reads failed.
    """

    path: str
    used_bytes: int
    limit_bytes: int
    ttl_s: float | None
    problem: str | None
    hits: int
    joins: int
    misses: int
    bypasses: dict[str, int]
    evictions: int
    unkept: int
    unread: int
    saved_tokens: int
    saved_s: float


class CachedAnswers(BaseModel):
    """Those of one version of a model that were computed for one API key; ``oldest_s`` is a time since 1970."""

    model: str
    version: str
    key: str
    answers: int
    tokens: int
    oldest_s: float


class CacheContents(BaseModel):
    status: CacheStatus
    contents: list[CachedAnswers]


class PurgeRequest(BaseModel):
    """Which answers: all that meet what is given. ``model`` is a name, an alias or NAME@VERSION, ``key`` the name of
    the API key that they were computed for. Without any of these, ``all`` must be true.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Name | None = None
    key: Name | None = None
    older_than_s: Annotated[float | None, Field(ge=0)] = None
    all: bool = False


class Purged(BaseModel):
    purged: int


class Vacuumed(BaseModel):
    """The file's bytes, in which nothing is free any more."""

    before_bytes: int
    after_bytes: int


class WarmRequest(BaseModel):
    """``requests`` are bodies of chat completions or of completions, or lines of OpenAI's batch files, whose ``url``
    says which of the two; ``key`` names the API key whose apps will ask.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_WARM_REQUESTS)]
    key: Name | None = None


class Warmed(BaseModel):
    """What became of the request with this index: ``state`` as in X-Cache, or ``error``; ``reason`` why it isn't
    kept.
    """

    index: int
    state: str
    reason: str | None = None
