"""What the handlers work with: made once by the composition root, read by dependencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from appliance.models.store import StoredModel
from appliance.service.activity import Activity
from appliance.service.context import RequestContext
from appliance.service.inference import Inference
from appliance.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class AppState:
    model: StoredModel
    supervisor: Supervisor
    activity: Activity
    inference: Inference


# Coroutines all: FastAPI would hand a plain function to a thread, which costs more than it does.


async def app_state(request: Request) -> AppState:
    state: AppState = request.app.state.appliance
    return state


async def request_context(request: Request) -> RequestContext:
    context: RequestContext = request.scope["state"]["context"]
    return context


State = Annotated[AppState, Depends(app_state)]


async def inference(state: State) -> Inference:
    return state.inference


Context = Annotated[RequestContext, Depends(request_context)]
Service = Annotated[Inference, Depends(inference)]
