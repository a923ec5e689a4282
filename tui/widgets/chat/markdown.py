"""Markdown as models write it."""

from __future__ import annotations

from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from tui.chat.code_blocks import parser
from tui.chat.display import shown


class AnswerMarkdown(Markdown):
    """Grows with the text. Links are not followed: a model has written them."""

    DEFAULT_CSS = """
    AnswerMarkdown { padding: 0; margin: 0; }
    AnswerMarkdown MarkdownFence { margin: 0 0 1 0; }
    AnswerMarkdown MarkdownFence > Label { padding: 0 1; }
    """

    def __init__(self, text: str) -> None:
        self._written = shown(text)
        super().__init__(self._written, parser_factory=parser, open_links=False)
        self._stream: MarkdownStream | None = None

    async def write(self, text: str) -> None:
        """Shows all of ``text``; what is new of it is added to what is there."""
        text = shown(text)
        if text == self._written:
            return
        if not text.startswith(self._written):
            await self.finish()
            await self.update(text)
        else:
            if self._stream is None:
                self._stream = Markdown.get_stream(self)
            await self._stream.write(text[len(self._written) :])
        self._written = text

    async def finish(self) -> None:
        """Nothing more comes for now."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()
