"""Whether requests can be answered, told for each model."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import ApplianceError
from appliance.service.catalog import Catalog
from appliance.supervisor.host import ModelHost
from appliance.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Readiness:
    """``status`` is ready or says what is in the way; ``models`` has the state of each that was asked for so far."""

    status: str
    model: str
    error: str | None
    models: dict[str, str]

    @property
    def is_ready(self) -> bool:
        return self.status == "ready"


def readiness(catalog: Catalog, supervisor: Supervisor) -> Readiness:
    """By the default model. Others may fail, or be away while another has their memory: requests bring them back."""
    supervisor.ledger.recheck_all()
    # Of several versions of a model, one that has an engine is shown.
    hosts = sorted(supervisor.hosts.values(), key=lambda host: host.client is not None)
    models = {host.spec.stored.name: _state(host) for host in hosts}
    name = catalog.default_if_any or ""
    if supervisor.is_stopping:
        return Readiness("draining", name, None, models)
    try:
        host = supervisor.host(catalog.resolve(None).spec)
    except ApplianceError as error:
        return Readiness("failed", name, error.message, models)
    models[name] = state = _state(host)
    is_away = state in ("stored", "draining") or (state == "loading" and host.has_been_ready)
    if state == "ready" or (is_away and not host.is_wanted and supervisor.loads_on_request):
        return Readiness("ready", name, None, models)
    return Readiness(state, name, host.error.message if host.error is not None else None, models)


def _state(host: ModelHost) -> str:
    if host.state == "stored" and host.error is not None:
        return "failed"  # it doesn't fit, or its GPU is missing
    if host.client is not None and host.client.has_ended:
        return "loading"  # the next one is about to be started
    return host.state
