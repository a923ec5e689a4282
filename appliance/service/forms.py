"""The look at the form that a text must have: before an engine is asked for it, and once it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from appliance.chat.formats import Form, Verdicts, violation

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


async def first_violation(grammar: str, texts: Sequence[str]) -> str | None:
    """What of finished texts isn't as their grammar wants it."""
    if not grammar:
        return None
    for text in texts:
        # By references, the work may double with each level of the text.
        if len(text) * len(grammar) <= _INLINE_WORK and '"$ref"' not in grammar:
            found = violation(grammar, text)
        else:
            found = await asyncio.to_thread(violation, grammar, text)
        if found is not None:
            return found
    return None
