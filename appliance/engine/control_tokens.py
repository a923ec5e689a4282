"""Which tokens are control tokens, and how they are written in a grammar."""

from __future__ import annotations

import re

# What llama.cpp takes for a control token by its text, whatever the file says of its type (llama-vocab.cpp); a few
# ordinary tokens more do no harm.
CONTROL_TEXT = re.compile(r"_?<(\|.*\||｜.*｜|[a-z]+_of_[a-z_]+|EOT|eos|bos|eot|/?s|unk|pad)>")

_SPECIAL = re.compile(r"<[^<>\s\[\]]+>")


def special_token(text: str) -> str:
    """How a control token is written in a Lark grammar."""
    if _SPECIAL.fullmatch(text):
        return text
    inner = re.sub(r"[<>\s\[\]]", "", text)
    return f"<{inner}>"
