"""Chat templates of the operator's own: files beside models.lock that take the place of the one in a model's file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from appliance.errors import ConfigError
from appliance.models.lock import TemplateFile

# The longest known are a tenth of it.
MAX_BYTES = 1 << 20


def pin_template(path: Path, lock_path: Path) -> TemplateFile:
    """What a lock says of the file ``path``. Raises ConfigError if it isn't beside the lock, or no text."""
    folder = lock_path.resolve().parent
    content = _read(path)
    try:
        name = path.resolve().relative_to(folder).as_posix()
        return TemplateFile(name, hashlib.sha256(content).hexdigest())
    except ValueError:
        raise ConfigError(
            f"--chat-template {path}: want a file in {folder} or below, where models.lock is, since both are needed "
            "to build the model elsewhere; copy it there"
        ) from None


def read_template(template: TemplateFile, lock_path: Path) -> bytes:
    """The file that a lock names. Raises ConfigError if it has other bytes, with both hashes."""
    path = lock_path.resolve().parent / template.path
    content = _read(path)
    if (digest := hashlib.sha256(content).hexdigest()) != template.sha256:
        raise ConfigError(
            f"the chat template {path} has sha256 {digest}, models.lock says {template.sha256}; bring the old one "
            "back, or pin it as it is now: run the command that pinned the model again, with --chat-template"
        )
    return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"the chat template {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the chat template {path} is no text in UTF-8") from None
    if not content or len(content) > MAX_BYTES:
        raise ConfigError(f"the chat template {path} has {len(content)} bytes or more; want 1 to {MAX_BYTES}")
    return content
