"""Downloads one file so that it can be cut off at any byte and goes on from there, in another process too.

What huggingface_hub 2.4.0 does not: its partial files have random names, so that a new process starts over, and it
stores whatever bytes came.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

import httpx

from appliance.errors import ConfigError
from appliance.files import CHUNK_BYTES, flush
from appliance.models.report import Advance

# Failures in a row, without a byte between them, until a download is given up; the pause doubles from the first.
MAX_TRIES = 6
FIRST_PAUSE_S = 0.5
TIMEOUT = httpx.Timeout(15.0)  # then it goes on where it was


class DownloadCancelled(Exception):
    """Another file's failure or Ctrl-C ended this one; what has come is kept."""


class Refused(Exception):
    """The server answered with a status that no further try would change."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Expected:
    """What must come: so many bytes and, where they are known, their SHA-256 or git's id of them."""

    size_bytes: int
    sha256: str | None = None
    git_blob: str | None = None


class _CutError(Exception):
    pass


def download(
    client: httpx.Client,
    url: str,
    headers: dict[str, str],
    expected: Expected,
    part: Path,
    *,
    advance: Advance,
    cancelled: Event,
    sleep: Callable[[float], object] | None = None,
) -> str:
    """Brings ``part`` to the expected bytes, from whatever it holds already; the SHA-256 of the file.

    Raises:
        ConfigError: the bytes are not those expected (``part`` is removed), or the connection fails for good.
        Refused: the server said no.
        DownloadCancelled: ``cancelled`` was set.
    """
    part.touch()
    with part.open("r+b") as file:
        partial = _Partial(file, expected, advance, cancelled)
        partial.take_up()
        n_failures = n_most = 0
        while partial.n_bytes < expected.size_bytes:
            if cancelled.is_set():
                raise DownloadCancelled
            n_most = max(n_most, partial.n_bytes)
            try:
                _read_on(client, url, headers, partial)
                continue
            except httpx.TooManyRedirects:
                raise ConfigError(f"{url} can't be downloaded: it leads in a circle") from None
            except (httpx.RequestError, RuntimeError, _CutError) as error:  # RuntimeError: the client was closed
                if cancelled.is_set():
                    raise DownloadCancelled from None
                n_failures = 1 if partial.n_bytes > n_most else n_failures + 1
                if n_failures >= MAX_TRIES:
                    raise ConfigError(
                        f"{url} can't be downloaded: {error or type(error).__name__}; {partial.n_bytes} of "
                        f"{expected.size_bytes} bytes are kept, the next call goes on from there"
                    ) from None
            (sleep or cancelled.wait)(FIRST_PAUSE_S * 2 ** (n_failures - 1))
        flush(file)
    if (problem := partial.problem()) is not None:
        part.unlink()
        raise ConfigError(f"{url} {problem}; what came was thrown away")
    return partial.sha256


def _read_on(client: httpx.Client, url: str, headers: dict[str, str], partial: _Partial) -> None:
    """One request. What came before an error stays."""
    wanted = {**headers, "Accept-Encoding": "identity"}
    if partial.n_bytes:
        wanted["Range"] = f"bytes={partial.n_bytes}-"
    with client.stream("GET", url, headers=wanted, follow_redirects=True, timeout=TIMEOUT) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise _CutError(f"the server answers {response.status_code}")
        if response.status_code == 416 or (response.status_code == 206 and _first_byte(response) != partial.n_bytes):
            partial.start_over()
            raise _CutError("the server gives other bytes than those asked for")
        if response.status_code not in (200, 206):
            raise Refused(response.status_code)
        if response.status_code == 200:  # all of it, from the beginning
            partial.start_over()
        for chunk in response.iter_raw():
            partial.append(chunk)
    if not partial.is_whole:
        raise _CutError("the connection ended early")


def _first_byte(response: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


class _Partial:
    """A file that grows, and the hashes of what it holds."""

    def __init__(self, file: BinaryIO, expected: Expected, advance: Advance, cancelled: Event) -> None:
        self._file = file
        self._expected = expected
        self._advance = advance
        self._cancelled = cancelled
        self._reset()

    def _reset(self) -> None:
        self.n_bytes = 0
        self._sha256 = hashlib.sha256()
        # Git's id of a file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        self._git = hashlib.sha1(b"blob %d\0" % self._expected.size_bytes, usedforsecurity=False)

    @property
    def is_whole(self) -> bool:
        return self.n_bytes == self._expected.size_bytes

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def take_up(self) -> None:
        """Hashes what an earlier call left."""
        while chunk := self._file.read(CHUNK_BYTES):
            self._add(chunk)
        if self.n_bytes > self._expected.size_bytes:
            self.start_over()

    def append(self, chunk: bytes) -> None:
        if self.n_bytes + len(chunk) > self._expected.size_bytes:
            self.start_over()
            raise _CutError(f"more than the {self._expected.size_bytes} bytes expected came")
        self._file.write(chunk)
        self._add(chunk)

    def start_over(self) -> None:
        self._advance(-self.n_bytes)
        self._file.truncate(0)
        self._file.seek(0)
        self._reset()

    def problem(self) -> str | None:
        """What is wrong with the whole file's bytes."""
        if self._expected.sha256 not in (None, self.sha256):
            return f"has sha256 {self.sha256}, expected is {self._expected.sha256}"
        if self._expected.git_blob not in (None, self._git.hexdigest()):
            return f"has the git id {self._git.hexdigest()}, expected is {self._expected.git_blob}"
        return None

    def _add(self, chunk: bytes) -> None:
        if self._cancelled.is_set():
            raise DownloadCancelled
        self._sha256.update(chunk)
        if self._expected.git_blob is not None:
            self._git.update(chunk)
        self.n_bytes += len(chunk)
        self._advance(len(chunk))
