"""Text files that go with a question: read from a path, or pasted."""

from __future__ import annotations

import stat
from pathlib import Path

from tui.chat.conversation import Attachment

# More would fill any context; a file of that size is attached by mistake.
MAX_BYTES = 512 << 10


class AttachmentRefused(Exception):
    """Why, as one sentence for people."""


def read(typed: str) -> Attachment:
    """The file at a path, which may begin with ``~``. Raises AttachmentRefused."""
    path = Path(typed.strip()).expanduser()
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise AttachmentRefused(f"{path} is a folder; attach a file.")
        if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
            raise AttachmentRefused(f"{path} is no ordinary file.")
        if found.st_size > MAX_BYTES:
            raise AttachmentRefused(_too_large(path.name, found.st_size))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AttachmentRefused(f"{path} can't be read: {reason}.") from None
    return _text(path.name, data)


def pasted(text: str, number: int) -> Attachment:
    """A pasted text that is too long for the input. Raises AttachmentRefused."""
    return _text(f"pasted-{number}.txt", text.encode("utf-8", "replace"))


def _text(name: str, data: bytes) -> Attachment:
    if len(data) > MAX_BYTES:
        raise AttachmentRefused(_too_large(name, len(data)))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise AttachmentRefused(f"{name} is no text in UTF-8; only text files can be attached.")
    if not text.strip():
        raise AttachmentRefused(f"{name} is empty.")
    return Attachment(name=name, text=text.replace("\r\n", "\n"))


def _too_large(name: str, n_bytes: int) -> str:
    return f"{name} has {n_bytes / 1024:,.0f} KiB; at most {MAX_BYTES >> 10} KiB can be attached."
