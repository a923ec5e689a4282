"""The code in an answer, for copying."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """``language`` is what stands behind the fence, if anything does."""

    language: str
    code: str


def parser() -> MarkdownIt:
    """HTML is shown as it was written: it would vanish otherwise."""
    return MarkdownIt("gfm-like", {"html": False})


def code_blocks(markdown: str) -> list[CodeBlock]:
    """In their order, also those in lists and quotes."""
    return [
        CodeBlock(token.info.strip(), token.content)
        for token in parser().parse(markdown)
        if token.type in ("fence", "code_block")
    ]
