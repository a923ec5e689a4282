"""What only the tests of chat dialects need."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.chat.template import ChatTemplate
from tests.chat.templates import compiled, sources


@pytest.fixture(scope="session")
def template_sources() -> dict[str, str]:
    return sources()


@pytest.fixture(scope="session")
def template_of(template_sources: dict[str, str]) -> Callable[[str], ChatTemplate]:
    """Compiles a template once, by its name."""
    made: dict[str, ChatTemplate] = {}

    def template_of(name: str) -> ChatTemplate:
        if name not in made:
            made[name] = compiled(template_sources[name])
        return made[name]

    return template_of
