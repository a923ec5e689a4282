"""The HTTP application: its routers and what stands around them."""

from __future__ import annotations

from fastapi import FastAPI

import appliance
from appliance.api import chat, errors, health, models
from appliance.api.state import AppState


def create_app(state: AppState) -> FastAPI:
    # The interactive pages load scripts from the internet: they stay off.
    app = FastAPI(title="LLM appliance", version=appliance.__version__, docs_url=None, redoc_url=None)
    app.state.appliance = state
    errors.install(app)
    for module in (chat, models, health):
        app.include_router(module.router)
    return app
