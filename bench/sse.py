"""HTTP/1.1 answers and the server-sent events in them, taken apart as they come."""

from __future__ import annotations


class HttpReader:
    """Takes an answer's bytes and gives its body's.

    ``status`` is 0 until the headers are complete; ``headers`` have names in lower case. A body of known length, a
    chunked one, and one that ends with the connection are understood.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        self._buffer = bytearray()
        self._is_chunked = False
        # Bytes that are still to come: of the body, or of the present chunk. None: until the connection ends.
        self._n_left: int | None = None

    def feed(self, data: bytes) -> bytes:
        """The body's bytes that ``data`` completes. Raises ValueError if this is no HTTP/1.1 answer."""
        self._buffer += data
        if self.status == 0 and not self._read_headers():
            return b""
        return self._chunks() if self._is_chunked else self._plain()

    def _read_headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status_line, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        words = status_line.split(b" ", 2)
        if not words[0].startswith(b"HTTP/1.") or len(words) < 2:
            raise ValueError(f"no HTTP answer: {status_line[:40]!r}")
        self.status = int(words[1])
        fields = (line.partition(b":") for line in lines)
        headers = self.headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        self._is_chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        if self._is_chunked:
            self._n_left = 0
        elif b"content-length" in headers:
            self._n_left = int(headers[b"content-length"])
            self.is_complete = self._n_left == 0
        return True

    def _plain(self) -> bytes:
        n_taken = len(self._buffer) if self._n_left is None else min(self._n_left, len(self._buffer))
        body = bytes(self._buffer[:n_taken])
        del self._buffer[:n_taken]
        if self._n_left is not None:
            self._n_left -= n_taken
            self.is_complete = self._n_left == 0
        return body

    def _chunks(self) -> bytes:
        body = bytearray()
        while not self.is_complete:
            if self._n_left == 0:
                end = self._buffer.find(b"\r\n")
                if end < 0:
                    break
                size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
                del self._buffer[: end + 2]
                if size == 0:
                    self.is_complete = True
                    break
                self._n_left = size + 2  # and the line's end behind it
            assert self._n_left is not None
            n_taken = min(self._n_left, len(self._buffer))
            if n_taken == 0:
                break
            body += self._buffer[: max(0, min(n_taken, self._n_left - 2))]
            del self._buffer[:n_taken]
            self._n_left -= n_taken
        return bytes(body)


class EventReader:
    """Takes a body's bytes and gives the data of its events; comments and other fields are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        """The data of each event that ``body`` completes."""
        events = []
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" "))
            elif not text and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
