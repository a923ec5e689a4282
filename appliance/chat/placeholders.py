"""Keeps what a client wrote apart from what a template writes."""

from __future__ import annotations

import json
import re
import secrets
from typing import Protocol

from appliance.engine.messages import PromptPart
from appliance.errors import InvalidRequest


class Texts(Protocol):
    """What is done with a client's texts on their way into a template."""

    def take(self, text: str) -> str:
        """What stands for the text."""

    def check(self, text: str) -> None:
        """For a text that must stay as it is. Raises InvalidRequest if it can't."""


class AsTheyAre:
    def take(self, text: str) -> str:
        return text

    def check(self, text: str) -> None:
        pass


class Placeholders:
    """Puts a placeholder for each text, and later the texts in their place."""

    def __init__(self, control: re.Pattern[str]) -> None:
        """``control`` finds the model's control tokens."""
        self._control = control
        self._nonce = secrets.token_hex(8)
        self._texts: list[str] = []
        self.has_control = False  # whether a text spells a control token

    def take(self, text: str) -> str:
        if not text:
            return ""
        self.has_control = self.has_control or self._control.search(text) is not None
        self._texts.append(text)
        # The quotation mark shows later whether the template wrote the text as it is or as a JSON string.
        return f'\ue000{self._nonce}.{len(self._texts) - 1}"\ue001'

    def check(self, text: str) -> None:
        if found := self._control.search(text):
            raise InvalidRequest(
                f"a name or a schema in the tools, or a name in a message, holds {found[0]!r}, which is one of the "
                "model's control tokens; remove it",
                param="tools",
            )

    def cut(self, marked: str) -> tuple[PromptPart, ...]:
        """The parts of a text with placeholders in it.

        Raises InvalidRequest if the template altered a placeholder.
        """
        parts = []
        pieces = re.split(f'\ue000{self._nonce}\\.(\\d+)(\\\\?)"\ue001', marked)
        # The groups give template text, placeholder number and backslash in turns.
        for position in range(0, len(pieces), 3):
            text = pieces[position]
            if self._nonce in text.lower():
                raise InvalidRequest(
                    "a message holds the text of one of the model's control tokens, and the model's chat template "
                    "alters messages so that it can't be told from the template's own; remove it",
                    param="messages",
                )
            if text:
                parts.append(PromptPart(text, True))
            if position + 2 < len(pieces):
                text = self._texts[int(pieces[position + 1])]
                is_json = bool(pieces[position + 2])
                parts.append(PromptPart(json.dumps(text, ensure_ascii=False)[1:-1] if is_json else text, False))
        return tuple(parts)
