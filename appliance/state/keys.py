"""API keys in a file, and the admin token in the state folder.

A line of the key file is a key, optionally followed by ``name=``, ``weight=`` and ``scope=``; ``#`` begins a comment.
Keys are kept and compared as hashes. The file is read again when it changes; a bad one leaves the old keys in force.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from appliance import logs
from appliance.errors import ConfigError

log = logging.getLogger(__name__)

MIN_KEY_CHARS = 16
ADMIN_TOKEN = "admin-token"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``name`` is shown in logs, ``id`` is this key's alone. Keys with the same ``scope`` share prefixes and answers.

    Both come of the key itself and not of its place in the file: what is stored for a key that was removed must never
    be another's.

    ``weight`` is the key's share of the engine beside others'.
    """

    id: str
    name: str
    scope: str
    weight: float


class KeyFile:
    """The keys of a file. ``find`` looks whether it has changed first."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file can't be read or a line is wrong."""
        self._path = path
        self._stamp = self._stat()
        self._keys = _read(path)

    def find(self, key: str) -> ApiKey | None:
        """The entry of this key, compared in a time that doesn't depend on where it differs."""
        self._reload_if_changed()
        digest = _digest(key)
        found = None
        for known, entry in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = entry
        return found

    def named(self, name: str) -> list[ApiKey]:
        """The keys of this name, which needn't be one."""
        self._reload_if_changed()
        return [entry for entry in self._keys.values() if entry.name == name]

    @property
    def names(self) -> list[str]:
        """Of all keys."""
        self._reload_if_changed()
        return [entry.name for entry in self._keys.values()]

    def _reload_if_changed(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(self._path)
            log.info(logs.event("keys_reloaded", path=self._path, keys=len(self._keys)))
        except ConfigError as error:
            log.error(logs.event("keys_not_reloaded", reason=error, in_force=len(self._keys)))

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class AdminToken:
    """Guards the admin API; written once to a file that only its owner can read."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / ADMIN_TOKEN
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        token = self.path.read_text().strip()
        if len(token) < MIN_KEY_CHARS:
            raise ConfigError(f"{self.path} holds no token; delete it, and the next start writes a new one")
        self._digest = _digest(token)

    def matches(self, token: str) -> bool:
        return hmac.compare_digest(self._digest, _digest(token))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _read(path: Path) -> dict[bytes, ApiKey]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_keys_file={path} can't be read: {error}") from None
    keys: dict[bytes, ApiKey] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        key, *options = words
        if len(key) < MIN_KEY_CHARS:
            raise ConfigError(f"{path} line {number}: a key has at least {MIN_KEY_CHARS} characters")
        if _digest(key) in keys:
            raise ConfigError(f"{path} line {number}: this key stands in the file twice")
        keys[_digest(key)] = _entry(path, number, _digest(key), options)
    if not keys:
        raise ConfigError(f"api_keys_file={path} holds no key")
    return keys


def _entry(path: Path, number: int, digest: bytes, options: list[str]) -> ApiKey:
    given = dict(option.partition("=")[::2] for option in options)
    if unknown := set(given) - {"name", "weight", "scope"}:
        raise ConfigError(f"{path} line {number}: {unknown.pop()!r}: want name=, weight= or scope=")
    name = given.get("name") or f"line-{number}"
    try:
        weight = float(given.get("weight", "1"))
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1000:
        raise ConfigError(f"{path} line {number}: weight={given['weight']}: want a number above 0, up to 1000")
    key_id = f"key:{digest.hex()}"
    scope = given.get("scope")
    return ApiKey(key_id, name, f"scope:{scope}" if scope else key_id, weight)
