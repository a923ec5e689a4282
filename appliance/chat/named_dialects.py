"""Dialects that can't be learnt from their templates, by marks in the template's text: data, and no code.

Each is taken from what the models' makers publish, and wins over what would be learnt.
"""

from __future__ import annotations

from typing import NamedTuple

from appliance.chat.dialect import Dialect, JSONArguments
from appliance.chat.generic import GENERIC


class NamedDialect(NamedTuple):
    """Of a template that has all the ``marks`` in it."""

    name: str
    marks: tuple[str, ...]
    dialect: Dialect


NAMED_DIALECTS = (
    # Its template shows tools, and no calls: those of earlier answers are the assistant's text.
    NamedDialect(
        "Granite 3",
        ("available_tools", "respond only with <|tool_call|> followed by a JSON list"),
        Dialect(
            opening="<|tool_call|>[",
            before_name='{"name": "',
            after_name='", "arguments": ',
            arguments=JSONArguments(),
            after_arguments="}",
            between=", ",
            closing="]",
            is_templated=False,
        ),
    ),
    # Its calls are messages of their own, that begin after the token that ends an answer.
    NamedDialect("GigaChat 3.0", ("'role': 'function call'", "<|message_sep|>"), GENERIC),
)

# Marks around what a model thinks before it answers.
REASONING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
)
