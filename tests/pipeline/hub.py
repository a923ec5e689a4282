"""A model hub on loopback that speaks the real one's HTTP: revision info, resolve with its headers, ranges, errors.

What it must answer was found by trying huggingface_hub 2.4.0 against it. Faults are switched on by a test.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_good"
# Larger files are stored with git LFS: the hub knows their SHA-256.
LFS_BYTES = 1000


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    files: dict[str, bytes] = field(repr=False)  # a failed test would print hundreds of megabytes
    gated: bool = False
    private: bool = False
    license: str = "apache-2.0"
    branches: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        listing = json.dumps(sorted((path, git_blob(data)) for path, data in self.files.items()))
        return hashlib.sha1(listing.encode()).hexdigest()

    def add_folder(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files[path.relative_to(folder).as_posix()] = path.read_bytes()


@dataclass
class Faults:
    """``cut_after``: bytes of a body until the connection ends, ``n_cuts`` times; ``wrong``: whose bytes are.

    ``trickle``: so many bytes of a large file at a time, with so many seconds between them. ``held``: what is cut stays
    open until this is set. ``circle``: each file is said to be where it is asked for.
    """

    cut_after: int | None = None
    n_cuts: int = 1_000_000
    no_range: bool = False
    wrong: str | None = None
    longer: str | None = None
    status: int | None = None
    n_status: int = 0
    held: threading.Event | None = None
    trickle: tuple[int, float] | None = None
    circle: bool = False


@dataclass
class LoopbackHub:
    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def n_gets(self, path: str) -> int:
        return sum(method == "GET" and asked.endswith(path) for method, asked, _ in self.requests)


@contextmanager
def running_hub(change: Callable[[http.server.ThreadingHTTPServer], None] | None = None) -> Iterator[LoopbackHub]:
    """``change`` is called before the server serves."""
    hub = LoopbackHub()

    class Handler(_Handler):
        serving = hub

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if change is not None:
            change(server)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        if hub.faults.held is not None:
            hub.faults.held.set()
        server.shutdown()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serving: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the overridden one
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.serving.requests.append((self.command, path, self.headers.get("Range")))
        authorization = self.headers.get("Authorization")
        self.serving.tokens.append(authorization)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            found = self._repo(match[1], match[2])
            if found is not None:
                self._send_json(200, self._info(match[1], found))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self._repo(match[1], match[2], wants_bytes=True)
            if found is not None:
                self._send_file(found, match[3])
        elif path == "/api/agent-harnesses":
            self._send_json(404, {})
        else:
            self._send_error(404, None, "Not found")

    def _repo(self, name: str, revision: str, *, wants_bytes: bool = False) -> Repo | None:
        """The repository, or None if the request has been refused, as the real hub refuses it."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        repo = self.serving.repos.get(name)
        if token not in (None, GOOD_TOKEN, "hf_stranger"):
            self._send_error(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token != GOOD_TOKEN):
            self._send_error(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif repo.gated and wants_bytes and token != GOOD_TOKEN:
            self._send_error(401 if token is None else 403, "GatedRepo", f"Access to model {name} is restricted")
        elif revision not in ("main", repo.commit, *repo.branches):
            self._send_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    @staticmethod
    def _info(name: str, repo: Repo) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for path, data in sorted(repo.files.items()):
            sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_blob(data)}
            if len(data) >= LFS_BYTES:
                digest = hashlib.sha256(data).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        gated = "manual" if repo.gated else False
        return {
            "id": name,
            "sha": repo.commit,
            "gated": gated,
            "siblings": siblings,
            "cardData": {"license": repo.license},
        }

    def _send_file(self, repo: Repo, path: str) -> None:
        faults = self.serving.faults
        data = repo.files.get(path)
        if data is None:
            return self._send_error(404, "EntryNotFound", "Entry not found", commit=repo.commit)
        is_large = len(data) >= LFS_BYTES
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{git_blob(data)}"', "Accept-Ranges": "bytes"}
        if is_large:
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        if faults.circle and self.command == "GET":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if faults.n_status and self.command == "GET":
            faults.n_status -= 1
            return self._send_error(faults.status or 500, None, "Try later")
        if path == faults.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        if path == faults.longer:
            data += b"more"
        first, status = 0, 200
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and not faults.no_range:
            first, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[first:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, is_large=is_large)
        return None

    def _send_body(self, body: bytes, *, is_large: bool) -> None:
        faults = self.serving.faults
        if is_large and faults.cut_after is not None and faults.n_cuts and len(body) > faults.cut_after:
            faults.n_cuts -= 1
            body = body[: faults.cut_after]
            self.close_connection = True
        try:
            n_at_once, pause_s = faults.trickle if is_large and faults.trickle is not None else (len(body) or 1, 0)
            for first in range(0, len(body), n_at_once):
                time.sleep(pause_s)
                self.wfile.write(body[first : first + n_at_once])
                self.wfile.flush()
            if is_large and faults.held is not None and self.close_connection:
                faults.held.wait(60)
        except OSError:  # the client has gone
            self.close_connection = True

    def _send_json(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, status: int, code: str | None, message: str, *, commit: str | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
