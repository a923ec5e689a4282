"""The keys of the chat. Those that are letters work while nothing is being typed."""

from __future__ import annotations

from textual.binding import Binding, BindingType

KEYS: list[BindingType] = [
    Binding("escape", "stop", "Stop", id="chat.stop", tooltip="Stop the answer, or leave what was begun."),
    Binding("ctrl+t", "pick_model", "Model", id="chat.model", tooltip="Choose the model that answers."),
    Binding("ctrl+s", "settings", "Settings", id="chat.settings", tooltip="System prompt and sampling."),
    Binding("ctrl+l", "list", "List", id="chat.list", tooltip="Show the conversations, and search them."),
    Binding("ctrl+n", "new", "New", id="chat.new", tooltip="Begin a new conversation."),
    Binding("ctrl+o", "attach", "Attach", id="chat.attach", tooltip="Attach a text file.", show=False),
    Binding("alt+o", "detach", "Detach", id="chat.detach", tooltip="Remove what was attached last.", show=False),
    Binding("ctrl+r,r", "retry", "Again", id="chat.retry", tooltip="Have the question answered again.", show=False),
    Binding("e", "edit", "Edit", id="chat.edit", tooltip="Edit the question; the old one is kept."),
    Binding("b", "branch", "Branch", id="chat.branch", tooltip="Ask something else after this answer."),
    Binding("left", "switch(-1)", "Other branch", id="chat.previous", tooltip="Show the branch before.", show=False),
    Binding("right", "switch(1)", "Other branch", id="chat.next", tooltip="Show the next branch.", show=False),
    Binding("c", "copy", "Copy", id="chat.copy", tooltip="Copy the message."),
    Binding("k", "copy_code", "Copy code", id="chat.copy_code", tooltip="Copy a code block of the answer."),
    Binding("t", "rename", "Rename", id="chat.rename", tooltip="Rename the conversation.", show=False),
    Binding("x", "export", "Export", id="chat.export", tooltip="Save it as Markdown or JSON.", show=False),
    Binding("d", "delete", "Delete", id="chat.delete", tooltip="Delete the conversation.", show=False),
    Binding("ctrl+g", "compare", "Compare", id="chat.compare", tooltip="Ask two models side by side.", show=False),
    Binding("pageup", "page(-1)", "Page up", id="chat.page_up", tooltip="Scroll up.", show=False),
    Binding("pagedown", "page(1)", "Page down", id="chat.page_down", tooltip="Scroll down.", show=False),
]
