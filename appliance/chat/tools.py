"""Tools that a model may call, and what its answer says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a client offers. ``parameters`` is a JSON schema; empty: any object."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments, which are an object."""
        return {**self.parameters, "type": "object"}

    def described(self) -> dict[str, Any]:
        """As OpenAI's API and the models' templates have it."""
        function = {
            "name": self.name,
            "description": self.description or "",
            # Templates look for both.
            "parameters": {"type": "object", "properties": {}, **self.parameters},
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The answer's call number ``index``, from 0, is one of this tool."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Call ``index``'s arguments go on by ``text``; all of them together are a JSON object."""

    index: int
    text: str


CallEvent = Content | CallBegun | CallArguments
