"""What the handlers work with: made once by the composition root, read by dependencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from appliance.api import cache_control
from appliance.cache.store import ResponseCache
from appliance.hardware.machine import MachineProbe
from appliance.logs import RecentLines
from appliance.service.activity import Activity
from appliance.service.answers import Answers
from appliance.service.catalog import Catalog
from appliance.service.context import RequestContext
from appliance.service.embeddings import Embeddings
from appliance.service.history import HistoryKeeper
from appliance.service.inference import Inference
from appliance.service.machine_metrics import MachineMetrics
from appliance.service.metrics import Metrics
from appliance.settings import Settings
from appliance.state.keys import KeyFile
from appliance.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class AppState:
    config: Settings
    catalog: Catalog
    supervisor: Supervisor
    activity: Activity
    inference: Inference
    embeddings: Embeddings
    cache: ResponseCache | None
    keys: KeyFile | None
    history: HistoryKeeper
    machine: MachineProbe
    log: RecentLines


def compose(
    config: Settings,
    catalog: Catalog,
    supervisor: Supervisor,
    machine: MachineProbe,
    log: RecentLines,
    cache: ResponseCache | None = None,
    keys: KeyFile | None = None,
) -> AppState:
    """The services over a supervisor; what it tells of its models is counted from now on.

    ``cache`` None: it is off. ``keys`` None: inference is open.
    """
    metrics = Metrics(supervisor.loads, cache)
    supervisor.feed.listen(metrics.saw_model)
    catalog.listen(supervisor.forget_all_but)
    activity = Activity(metrics)
    history = HistoryKeeper(supervisor, activity, machine.read)
    metrics.add(MachineMetrics(history.latest))
    return AppState(
        config=config,
        catalog=catalog,
        supervisor=supervisor,
        activity=activity,
        inference=Inference(supervisor, catalog, activity, Answers(supervisor, cache, metrics)),
        embeddings=Embeddings(supervisor, catalog, activity, cache),
        cache=cache,
        keys=keys,
        history=history,
        machine=machine,
        log=log,
    )


# Coroutines all: FastAPI would hand a plain function to a thread, which costs more than it does.


async def app_state(request: Request) -> AppState:
    state: AppState = request.app.state.appliance
    return state


async def request_context(request: Request) -> RequestContext:
    context: RequestContext = request.scope["state"]["context"]
    if wanted := request.headers.getlist("cache-control"):  # which may stand on several lines
        context.cache_control = cache_control.parse(",".join(wanted))
    return context


State = Annotated[AppState, Depends(app_state)]


async def inference(state: State) -> Inference:
    return state.inference


Context = Annotated[RequestContext, Depends(request_context)]
Service = Annotated[Inference, Depends(inference)]
