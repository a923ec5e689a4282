"""How texts of the chat are written on the screen. What is copied or saved is never changed so."""

from __future__ import annotations

# A model may write anything: control characters would reach the terminal, and the Markdown widget would count lines
# otherwise than its parser, if those that end a line elsewhere were left.
_CONTROLS = {code: chr(0x2400 + code) for code in range(32)} | {
    code: "\N{REPLACEMENT CHARACTER}" for code in range(127, 160)
}
_LINE_ENDS = dict.fromkeys((0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029), "\n")
_SHOWN = _CONTROLS | _LINE_ENDS | {0x09: "    ", 0x0A: "\n", 0x0D: ""}


def shown(text: str) -> str:
    """Without what a terminal would obey."""
    return text.translate(_SHOWN)


def cut(text: str, max_chars: int) -> str:
    """Says how much is left out, if anything is."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}… ({len(text) - max_chars:,} more characters)"
