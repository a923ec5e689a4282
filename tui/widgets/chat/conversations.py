"""The list of conversations, with its search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tui.chat.store import Summary, matching
from tui.figures import count_text, cut, printable

# More would take long to lay out; the search finds the others.
MAX_LISTED = 200
# What the panel has room for on one line.
MAX_TITLE_CHARS = 29


class ConversationList(Vertical):
    """Shows what it was told last; the cursor stays with its conversation."""

    DEFAULT_CSS = """
    ConversationList > Input { margin: 0 0 0 1; }
    ConversationList > OptionList, ConversationList > OptionList:focus {
        height: 1fr; border: none; padding: 0; scrollbar-size-vertical: 1;
    }
    ConversationList > #none { color: $text-muted; padding: 0 1; }
    """

    class Chosen(Message):
        def __init__(self, conversation_id: str) -> None:
            super().__init__()
            self.conversation_id = conversation_id

    def __init__(self, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._summaries: Sequence[Summary] = ()
        self._current: str | None = None
        self._listed: list[tuple[Summary, bool]] = []

    def compose(self) -> ComposeResult:
        yield Input(placeholder="Search titles and texts", compact=True)
        yield Static(id="none", markup=False)
        yield OptionList()

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False

    @property
    def highlighted(self) -> str | None:
        """The conversation under the cursor, if the list has it."""
        options = self.query_one(OptionList)
        option = options.highlighted_option
        return option.id if options.has_focus and option is not None else None

    def show(self, summaries: Sequence[Summary], current: str) -> None:
        self._summaries, self._current = summaries, current
        self._list()

    def on_input_changed(self) -> None:
        self._list()

    def on_input_submitted(self) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            options.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option.id is not None:
            self.post_message(self.Chosen(event.option.id))

    def _list(self) -> None:
        found = matching(list(self._summaries), self.query_one(Input).value)
        listed = [(summary, summary.id == self._current) for summary in found[:MAX_LISTED]]
        if listed != self._listed:
            self._listed = listed
            options = self.query_one(OptionList)
            before = options.highlighted_option
            options.set_options([Option(_prompt(summary, is_current), summary.id) for summary, is_current in listed])
            ids = [summary.id for summary, _ in listed]
            wanted = before.id if before is not None else self._current
            options.highlighted = ids.index(wanted) if wanted in ids else (0 if ids else None)
        self._say(len(found))

    def _say(self, n_found: int) -> None:
        if n_found > MAX_LISTED:
            text = f"The latest {MAX_LISTED} of {n_found}; search for others."
        elif n_found:
            text = ""
        else:
            text = "Nothing is found." if self._summaries else "No conversations yet."
        line = self.query_one("#none", Static)
        line.update(text)
        line.display = bool(text)


def _prompt(summary: Summary, is_current: bool) -> Content:
    when = datetime.fromtimestamp(summary.changed_s).strftime("%Y-%m-%d %H:%M")
    sign = "> " if is_current else "  "
    return Content.assemble(
        (f"{sign}{cut(printable(summary.title), MAX_TITLE_CHARS)}", "bold" if is_current else ""),
        "\n",
        (f"  {when}, {count_text(summary.n_messages, 'message')}", "$text-muted"),
    )
