"""The HTTP application: its routers and what stands around them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

import appliance
from appliance.api import completions, docs, embeddings, errors, health, models, tokens
from appliance.api.access import Guard
from appliance.api.admin import cache, kv_disk, machine, requests, watching
from appliance.api.admin import models as admin_models
from appliance.api.cache_control import EXPOSED
from appliance.api.limits import BodyLimit
from appliance.api.observe import Observer
from appliance.api.state import AppState
from appliance.state.keys import AdminToken


@dataclass(frozen=True, slots=True)
class AppOptions:
    """``cors_origins`` empty: no CORS header is ever sent."""

    admin: AdminToken
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20


def create_api(state: AppState) -> FastAPI:
    """The routes alone."""
    app = FastAPI(title="LLM appliance", version=appliance.__version__, docs_url=None, redoc_url=None)
    app.state.appliance = state
    errors.install(app)
    administration = (requests, admin_models, machine, cache, kv_disk, watching)
    for module in (completions, embeddings, tokens, models, health, *administration, docs):
        app.include_router(module.router)
    return app


def create_app(state: AppState, options: AppOptions) -> ASGIApp:
    """The routes behind their guards: from the outside, observed, CORS, Host and keys, size of the body."""
    app: ASGIApp = BodyLimit(create_api(state), options.max_body_bytes)
    app = Guard(app, keys=state.keys, admin=options.admin, hosts=options.allowed_hosts)
    if options.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    return Observer(app, state.activity.metrics)
