"""Grammars that text must follow: llguidance compiles them, masks tokens, and knows which tokens are forced."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"<[^<>\s\[\]]+>")


def special_token(text: str) -> str:
    """How a control token is written in a Lark grammar."""
    if _SPECIAL.fullmatch(text):
        return text
    inner = re.sub(r"[<>\s\[\]]", "", text)
    return f"<{inner}>"
