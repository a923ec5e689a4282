"""The look at the form that a text must have: before an engine is asked for it, and once it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from appliance.chat.formats import Form, Verdicts, violation

# The parts of a finished text that must have a form, each with it.
Parts = Callable[[str], Sequence[tuple[Form, str]]]

# Characters of a text times those of its schema: fewer take a few milliseconds, others are looked at on a thread.
_INLINE_WORK = 200_000


class Forms:
    """Of requests, before they are begun."""

    def __init__(self) -> None:
        self._verdicts = Verdicts()
        self._turn = asyncio.Lock()

    async def check(self, forms: Sequence[Form]) -> None:
        """Raises InvalidRequest, naming what can't be kept to the letter."""
        if self._verdicts.are_quick(forms):
            self._verdicts.check(forms)
            return
        # One after the other: prompts of one request ask the same, and the second finds it known.
        async with self._turn:
            await asyncio.to_thread(self._verdicts.check, forms)


class Violation(NamedTuple):
    """What of a text isn't as the request's field ``param`` wants it."""

    param: str
    problem: str


async def first_violation(parts_of: Parts, texts: Sequence[str]) -> Violation | None:
    """What of finished texts isn't as the forms of their parts want it."""
    for form, part in (found for text in texts for found in parts_of(text)):
        # By references, the work may double with each level of the text.
        if len(part) * len(form.grammar) <= _INLINE_WORK and '"$ref"' not in form.grammar:
            problem = violation(form.grammar, part)
        else:
            problem = await asyncio.to_thread(violation, form.grammar, part)
        if problem is not None:
            return Violation(form.param, problem)
    return None
