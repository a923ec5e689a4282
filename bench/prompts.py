"""Prompts of known length that no server has seen before."""

from __future__ import annotations

import random

# Each is one token, with the space before it, in practically every vocabulary.
_WORDS = """
the of and to in is was for on that with as by at from his her it an were are which this be or had first one their has
its new after but who not they have two time when during into all school may years more most only over city some world
would where later up such used many can state about national out known university team made between season while three
war people game these film year work through part before high being under both life
""".split()


def words(n_words: int, *seed: object) -> str:
    """A text of so many words, about as many tokens.

    The same seed gives the same text. Another one parts from it within a token or two, so nothing can be reused.
    """
    draw = random.Random(repr(seed))
    return " ".join(draw.choices(_WORDS, k=n_words))
