"""``/admin/models``: which models there are, and loading, unloading, pinning and choosing them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from appliance.api.state import State
from appliance.schemas.admin import ModelList, ModelPlan, ModelStatus, UseRequest
from appliance.service.plan import model_plan
from appliance.service.status import model_status, versions
from appliance.supervisor.host import ModelHost

router = APIRouter(prefix="/admin")

# An alias may have slashes in it. An empty name would mean the default model.
Name = Annotated[str, Path(min_length=1)]


@router.get("/models")
async def list_models(state: State) -> ModelList:
    """Every version of models.lock: whether it can be served, and what its engine does."""
    return ModelList(models=versions(state.catalog, state.supervisor))


@router.get("/models/{model:path}/plan")
async def plan(model: Name, state: State) -> ModelPlan:
    """What loading a model, or NAME@VERSION, would do now, beside what is loaded. Nothing is done."""
    return model_plan(state.supervisor.prospect(state.catalog.resolve(model).spec))


@router.post("/models/{model:path}/load")
async def load(model: Name, state: State) -> ModelStatus:
    """Loads a model, or NAME@VERSION; others make way that may. Answers when it is ready."""
    served = state.catalog.resolve(model)
    await state.supervisor.load(served.spec)
    return _status(state, state.supervisor.host(served.spec))


@router.post("/models/{model:path}/unload")
async def unload(model: Name, state: State) -> ModelStatus:
    """Ends a model's engine once its requests have ended. The next request loads it again."""
    host = state.supervisor.host(state.catalog.resolve(model).spec)
    await state.supervisor.unload(host.key, "operator")
    return _status(state, host)


@router.post("/models/{model:path}/pin")
async def pin(model: Name, state: State) -> ModelStatus:
    """From now on the model makes way for no other."""
    return _pinned(state, model, is_pinned=True)


@router.post("/models/{model:path}/unpin")
async def unpin(model: Name, state: State) -> ModelStatus:
    """The model makes way for others again."""
    return _pinned(state, model, is_pinned=False)


@router.post("/models/{model:path}/default")
async def make_default(model: Name, state: State) -> ModelStatus:
    """Requests that name no model get this one."""
    served = state.catalog.set_default(model)
    return _status(state, state.supervisor.host(served.spec))


@router.post("/models/{model:path}/use")
async def use(model: Name, body: UseRequest, state: State) -> ModelStatus:
    """Makes a version current. One that is loaded serves on until the new one is ready, or has failed to be loaded."""
    after = state.catalog.meant(model, body.version)
    await state.supervisor.replace(after.spec, lambda: state.catalog.use(model, after.stored.record.gguf_sha256))
    return _status(state, state.supervisor.host(after.spec))


def _pinned(state: State, model: str, *, is_pinned: bool) -> ModelStatus:
    served = state.catalog.pin(model, is_pinned=is_pinned)
    # Versions that aren't in use any more may be loaded, too.
    for listed in state.catalog.all():
        if listed.served is not None and listed.served.spec.key in state.supervisor.hosts:
            state.supervisor.host(listed.served.spec)
    return _status(state, state.supervisor.host(served.spec))


def _status(state: State, host: ModelHost) -> ModelStatus:
    state.supervisor.ledger.recheck_all()
    return model_status(host, state.catalog.default_if_any)
