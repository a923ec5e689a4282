"""All versions of models.lock: what each is and does, and loading, unloading, pinning and choosing them."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from pydantic import BaseModel
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content

from appliance.schemas.admin import ModelPlan, ModelStatus, UseRequest, Version
from tui.client import ServerError
from tui.figures import count_text, duration_text, size_text, tokens_text
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.confirm import Confirm, is_confirmed
from tui.widgets.model_details import ModelDetails, key_of, role
from tui.widgets.plan import memory_text, plan_text
from tui.widgets.rows import Cell, Column, Row, Rows, Tone

_TONES: dict[str, Tone] = {"ready": "good", "loading": "warning", "draining": "warning", "failed": "bad"}
# Enough to tell versions apart; the details show the whole.
_SHOWN_VERSION = 8
_COLUMNS = (
    Column("Model", min_width=12, max_width=20),
    Column("Version", max_width=_SHOWN_VERSION),
    Column("State", min_width=11),
    Column("Role"),
    Column("Size", is_number=True, min_width=8),
    Column("Type"),
    Column("Context", is_number=True),
    Column("KL div.", is_number=True),
    Column("Licence"),
    Column("Also called", max_width=60),
)


class ModelsScreen(Section):
    NAME = "models"
    NEEDS = frozenset({Part.MODELS})
    DEFAULT_CSS = """
    ModelsScreen #details { height: auto; max-height: 50%; border-top: solid $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "load", "Load", id="models.load", tooltip="Load this version; what it would do is shown first."),
        Binding("u", "unload", "Unload", id="models.unload", tooltip="End its engine once its requests have ended."),
        Binding("d", "default", "Default", id="models.default", tooltip="Requests that name no model get this one."),
        Binding("p", "pin", "Pin", id="models.pin", tooltip="Pin the model, so that it makes way for no other; unpin."),
        Binding("v", "use", "Use", id="models.use", tooltip="Serve this version of the model from now on."),
        Binding("b", "back", "Back", id="models.back", tooltip="Serve the version again that was before."),
    ]

    def body(self) -> ComposeResult:
        yield Rows(*_COLUMNS, id="models")
        with VerticalScroll(id="details", can_focus=False):
            yield ModelDetails()

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.models is not None:
            self.query_one(Rows).show([_row(version) for version in snapshot.models.models])
            self.query_one(ModelDetails).show(self._chosen())

    def on_rows_highlighted(self) -> None:
        self.query_one(ModelDetails).show(self._chosen())

    def on_rows_chosen(self) -> None:
        self.action_load()

    def action_load(self) -> None:
        if (version := self._chosen()) is not None:
            self._load(version)

    def action_unload(self) -> None:
        if (version := self._chosen()) is None:
            return
        status = version.status
        if status is None or status.state not in ("loading", "ready", "draining"):
            self._say(f"{key_of(version)} is not loaded.", "warning")
        else:
            self._unload(version, status)

    def action_default(self) -> None:
        if (version := self._chosen()) is not None:
            self._send(_path(version.name, "default"), f"Requests that name no model get {version.name} now.")

    def action_pin(self) -> None:
        if (version := self._chosen()) is None:
            return
        if version.is_pinned:
            self._send(_path(version.name, "unpin"), f"{version.name} makes way for others again.")
        else:
            self._send(_path(version.name, "pin"), f"{version.name} is pinned: it makes way for no other.")

    def action_use(self) -> None:
        if (version := self._chosen()) is None:
            return
        if version.is_current:
            self._say(f"{key_of(version)} is served already.", "information")
        else:
            self._use(version, version.version)

    def action_back(self) -> None:
        if (chosen := self._chosen()) is None:
            return
        found = [version for version in self._versions() if version.name == chosen.name and version.is_previous]
        if found:
            self._use(found[0], "previous")
        else:
            self._say(f"{chosen.name} has no version to go back to: none was chosen before.", "warning")

    @work(exclusive=True, group="ask")
    async def _load(self, version: Version) -> None:
        key = key_of(version)
        if (plan := await self._plan(version)) is None:
            return
        action = "Load" if plan.fits and not plan.was_loaded else None
        if await is_confirmed(self, Confirm(f"Load {key}?", plan_text(plan), action=action)):
            self._send(_path(key, "load"), f"{key} is ready.")

    @work(exclusive=True, group="ask")
    async def _unload(self, version: Version, status: ModelStatus) -> None:
        key = key_of(version)
        if await is_confirmed(self, Confirm(f"Unload {key}?", _unload_text(status), action="Unload")):
            self._send(_path(key, "unload"), f"{key} is unloaded.")

    @work(exclusive=True, group="ask")
    async def _use(self, version: Version, wanted: str) -> None:
        key = key_of(version)
        loaded = [key_of(v) for v in self._versions() if v.name == version.name and v.status and v.status.engine]
        if not loaded:
            details = Content("The model is not loaded: the next request that names it gets this one.")
        elif (plan := await self._plan(version)) is None:
            return
        else:
            staying = [other for other in loaded if other != key and other not in plan.evicted]
            first = f"{', '.join(staying)} serves on until it is ready.\n" if staying else ""
            details = Content(first) + plan_text(plan)
        if await is_confirmed(self, Confirm(f"Serve {key} from now on?", details, action="Use")):
            self._send(_path(version.name, "use"), f"{key} is served now.", UseRequest(version=wanted))

    @work
    async def _send(self, path: str, done: str, body: BaseModel | None = None) -> None:
        """Takes as long as it takes; the table shows how far it is."""
        try:
            await self.tui.server.post(path, ModelStatus, body)
        except ServerError as error:
            self._say(error.message, "error")
        else:
            self._say(done, "information")
        self.tui.poller.hurry()

    async def _plan(self, version: Version) -> ModelPlan | None:
        """None: there is none, and the user was told why."""
        try:
            return await self.tui.server.get(_path(key_of(version), "plan"), ModelPlan)
        except ServerError as error:
            self._say(error.message, "error")
            return None

    def _versions(self) -> list[Version]:
        models = self.tui.snapshot.models
        return models.models if models is not None else []

    def _chosen(self) -> Version | None:
        current = self.query_one(Rows).current
        return next((version for version in self._versions() if key_of(version) == current), None)

    def _say(self, text: str, severity: str) -> None:
        self.notify(text, severity=severity, markup=False)  # type: ignore[arg-type]


def _path(model: str, verb: str) -> str:
    return f"/admin/models/{quote(model, safe='@')}/{verb}"


def _row(version: Version) -> Row:
    status = version.status
    n_ctx = status.engine.n_ctx if status is not None and status.engine is not None else version.n_ctx_train
    cells = (
        Cell(version.name),
        Cell(version.version[:_SHOWN_VERSION], "quiet"),
        _state(version),
        Cell(role(version)),
        Cell(size_text(version.size_bytes) if version.size_bytes is not None else "-"),
        Cell(version.quantization),
        Cell(tokens_text(n_ctx) if n_ctx is not None else "-"),
        Cell(f"{version.kl_divergence:.4f}" if version.kl_divergence is not None else "-"),
        Cell(version.license),
        Cell(", ".join(version.aliases), "quiet"),
    )
    return Row(key_of(version), cells)


def _state(version: Version) -> Cell:
    status = version.status
    if status is not None and status.state == "loading" and status.load_ratio is not None:
        return Cell(f"loading {status.load_ratio:.0%}", "warning")
    if status is not None and status.state == "stored" and status.requests_waiting:
        return Cell("waiting", "warning")
    return Cell(version.state, _TONES.get(version.state, "quiet"))


def _unload_text(status: ModelStatus) -> Content:
    parts = []
    if status.state == "loading":
        parts.append(Content("It is being loaded; that ends."))
    elif status.requests:
        n = count_text(status.requests, "open request")
        parts.append(Content.styled(f"! {n} of it will be waited for; what takes too long fails.", "$text-warning"))
    elif status.idle_s is not None:
        parts.append(Content(f"No request is open; it was used {duration_text(status.idle_s)} ago."))
    parts.append(Content("The next request that names it loads it again."))
    if status.engine is not None and status.engine.memory:
        parts += [Content("What it takes:"), memory_text(status.engine.memory)]
    return Content("\n").join(parts)
