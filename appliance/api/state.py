"""What the handlers work with: made once by the composition root, read by dependencies."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from appliance.models.store import StoredModel
from appliance.service.chat import ChatService
from appliance.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class AppState:
    model: StoredModel
    supervisor: Supervisor
    chat: ChatService


def app_state(request: Request) -> AppState:
    state: AppState = request.app.state.appliance
    return state


def chat_service(request: Request) -> ChatService:
    return app_state(request).chat
