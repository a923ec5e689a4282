"""``/admin/models``: which models there are, and loading, unloading, pinning and choosing them."""

from __future__ import annotations

from fastapi import APIRouter

from appliance.api.state import State
from appliance.schemas.admin import ModelList, ModelStatus, UseRequest
from appliance.service.status import model_status, versions

router = APIRouter(prefix="/admin")


@router.get("/models")
async def list_models(state: State) -> ModelList:
    """Every version of models.lock: whether it can be served, and what its engine does."""
    return ModelList(models=versions(state.catalog, state.supervisor))


@router.post("/models/{model}/load")
async def load(model: str, state: State) -> ModelStatus:
    """Loads a model, or NAME@VERSION; others make way that may. Answers when it is ready."""
    served = state.catalog.resolve(model)
    await state.supervisor.load(served.spec)
    return _status(state, served.spec.key)


@router.post("/models/{model}/unload")
async def unload(model: str, state: State) -> ModelStatus:
    """Ends a model's engine once its requests have ended. The next request loads it again."""
    served = state.catalog.resolve(model)
    state.supervisor.host(served.spec)
    await state.supervisor.unload(served.spec.key, "operator")
    return _status(state, served.spec.key)


@router.post("/models/{model}/pin")
async def pin(model: str, state: State) -> ModelStatus:
    """From now on the model makes way for no other."""
    served = state.catalog.pin(model, is_pinned=True)
    return _status(state, state.supervisor.host(served.spec).key)


@router.post("/models/{model}/unpin")
async def unpin(model: str, state: State) -> ModelStatus:
    """The model makes way for others again."""
    served = state.catalog.pin(model, is_pinned=False)
    return _status(state, state.supervisor.host(served.spec).key)


@router.post("/models/{model}/default")
async def make_default(model: str, state: State) -> ModelStatus:
    """Requests that name no model get this one."""
    served = state.catalog.set_default(model)
    return _status(state, state.supervisor.host(served.spec).key)


@router.post("/models/{model}/use")
async def use(model: str, body: UseRequest, state: State) -> ModelStatus:
    """Makes a version current. If the one before it is loaded, the new one takes its place once it is ready."""
    before = state.catalog.resolve(model)
    served = state.catalog.use(model, body.version)
    if served.spec.key != before.spec.key:
        await state.supervisor.replace(before.spec, served.spec)
    return _status(state, state.supervisor.host(served.spec).key)


def _status(state: State, key: str) -> ModelStatus:
    return model_status(state.supervisor.hosts[key], state.catalog.default_name)
