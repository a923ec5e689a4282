"""The sections of the terminal UI, in the order of its navigation. A section for API keys would be one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tui.screens.section import Section


@dataclass(frozen=True, slots=True)
class SectionInfo:
    """``name`` is also the module in ``tui.screens`` with its class; both are loaded when it is first shown."""

    name: str
    title: str
    key: str
    class_name: str
    help: str

    def make(self) -> Section:
        return cast("Callable[[], Section]", getattr(import_module(f"tui.screens.{self.name}"), self.class_name))()


SECTIONS = (
    SectionInfo("chat", "Chat", "f2", "ChatScreen", "Talk to a model."),
    SectionInfo("models", "Models", "f3", "ModelsScreen", "Load, unload, pin and choose models."),
    SectionInfo("dashboard", "Dashboard", "f4", "DashboardScreen", "The machine and the work it does."),
    SectionInfo("requests", "Requests", "f5", "RequestsScreen", "What waits, runs and has ended."),
    SectionInfo("cache", "Cache", "f6", "CacheScreen", "The response cache: what it saves, and removing answers."),
    SectionInfo("logs", "Logs", "f7", "LogsScreen", "The server's log, as it is written."),
    SectionInfo("doctor", "Doctor", "f8", "DoctorScreen", "Look for what is wrong."),
)
