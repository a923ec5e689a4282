"""One file from the loopback hub, over connections that break in every way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import httpx
import pytest

from appliance.errors import ConfigError
from appliance.models.download import MAX_TRIES, DownloadCancelled, Expected, Refused, download
from tests.pipeline.hub import LoopbackHub, Repo, git_blob

DATA = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Downloading:
    def __init__(self, hub: LoopbackHub, client: httpx.Client, part: Path) -> None:
        self.hub, self.client, self.part = hub, client, part
        self.advanced = 0
        self.pauses: list[float] = []
        self.sleep: Callable[[float], None] = self.pauses.append
        self.cancelled = Event()

    def __call__(self, *, size: int = len(DATA), sha256: str | None = SHA256, git: str | None = None) -> str:
        url = f"{self.hub.url}/org/model/resolve/main/big.bin"
        return download(
            self.client,
            url,
            {},
            Expected(size, sha256, git),
            self.part,
            advance=self._advance,
            cancelled=self.cancelled,
            sleep=self.sleep,
        )

    def _advance(self, n: int) -> None:
        self.advanced += n


@pytest.fixture
def downloading(hub: LoopbackHub, tmp_path: Path) -> Iterator[Downloading]:
    hub.repos["org/model"] = Repo({"big.bin": DATA, "empty.bin": b""})
    with httpx.Client() as client:
        yield Downloading(hub, client, tmp_path / "part")


def test_a_file_comes_whole(downloading: Downloading) -> None:
    assert downloading() == SHA256
    assert downloading.part.read_bytes() == DATA
    assert downloading.advanced == len(DATA)


def test_what_was_cut_goes_on_from_there(downloading: Downloading) -> None:
    downloading.hub.faults.cut_after = 70_000
    downloading()
    assert downloading.part.read_bytes() == DATA
    ranges = [asked for _, _, asked in downloading.hub.requests]
    assert ranges[0] is None
    assert all(asked is not None and asked.startswith("bytes=") for asked in ranges[1:])
    assert len(ranges) == 5
    assert downloading.advanced == len(DATA)


def test_another_process_goes_on_with_what_is_there(downloading: Downloading) -> None:
    downloading.part.write_bytes(DATA[:123_456])
    downloading()
    assert downloading.part.read_bytes() == DATA
    assert [asked for _, _, asked in downloading.hub.requests] == ["bytes=123456-"]
    assert downloading.advanced == len(DATA)


def test_a_whole_file_is_not_asked_for_again(downloading: Downloading) -> None:
    downloading.part.write_bytes(DATA)
    assert downloading() == SHA256
    assert downloading.hub.requests == []


def test_a_server_without_ranges_starts_over_and_nothing_is_appended(downloading: Downloading) -> None:
    downloading.part.write_bytes(DATA[:123_456])
    downloading.hub.faults.no_range = True
    assert downloading() == SHA256
    assert downloading.part.read_bytes() == DATA
    assert downloading.advanced == len(DATA)


def test_wrong_bytes_are_thrown_away_with_both_hashes_named(downloading: Downloading) -> None:
    downloading.hub.faults.wrong = "big.bin"
    with pytest.raises(ConfigError, match=f"has sha256 [0-9a-f]{{64}}, expected is {SHA256}"):
        downloading()
    assert not downloading.part.exists()


def test_a_part_with_wrong_bytes_does_not_stand_in_the_way_for_ever(downloading: Downloading) -> None:
    downloading.part.write_bytes(b"x" * 1000)
    with pytest.raises(ConfigError, match="was thrown away"):
        downloading()
    assert downloading() == SHA256


def test_a_part_that_is_too_long_is_started_anew(downloading: Downloading) -> None:
    downloading.part.write_bytes(DATA + b"more")
    assert downloading() == SHA256


def test_a_body_that_is_too_long_is_not_taken(downloading: Downloading) -> None:
    downloading.hub.faults.longer = "big.bin"
    with pytest.raises(ConfigError, match="more than the 300000 bytes expected"):
        downloading()
    assert downloading.part.stat().st_size == 0


def test_git_s_id_is_checked_where_it_is_all_there_is(downloading: Downloading) -> None:
    assert downloading(sha256=None, git=git_blob(DATA)) == SHA256
    downloading.part.unlink()
    with pytest.raises(ConfigError, match="has the git id"):
        downloading(sha256=None, git="0" * 40)


def test_a_busy_server_is_asked_again_later_and_later(downloading: Downloading) -> None:
    downloading.hub.faults.status, downloading.hub.faults.n_status = 503, 3
    assert downloading() == SHA256
    assert downloading.pauses == [0.5, 1.0, 2.0]


def test_a_server_that_stays_busy_is_given_up(downloading: Downloading) -> None:
    downloading.hub.faults.status, downloading.hub.faults.n_status = 429, 100
    with pytest.raises(ConfigError, match="the server answers 429; 0 of 300000 bytes are kept"):
        downloading()
    assert len(downloading.hub.requests) == MAX_TRIES


def test_a_server_that_is_not_there_is_given_up(downloading: Downloading) -> None:
    downloading.hub.url = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match="can't be downloaded"):
        downloading()


def test_an_address_that_leads_in_a_circle_is_asked_for_once(downloading: Downloading) -> None:
    downloading.hub.faults.circle = True
    with pytest.raises(ConfigError, match="big.bin can't be downloaded: it leads in a circle"):
        downloading()
    assert downloading.pauses == []


def test_a_no_is_a_no(downloading: Downloading) -> None:
    downloading.hub.repos["org/model"].gated = True
    with pytest.raises(Refused) as caught:
        downloading()
    assert caught.value.status == 401
    assert len(downloading.hub.requests) == 1


def test_cancelling_keeps_what_has_come(downloading: Downloading) -> None:
    downloading.part.write_bytes(DATA[:50_000])
    downloading.cancelled.set()
    with pytest.raises(DownloadCancelled):
        downloading()
    assert downloading.part.read_bytes() == DATA[:50_000]
    downloading.cancelled.clear()
    assert downloading() == SHA256


def test_a_server_that_always_starts_over_is_given_up(downloading: Downloading) -> None:
    downloading.hub.faults.cut_after, downloading.hub.faults.no_range = 70_000, True
    with pytest.raises(ConfigError, match="the next call goes on from there"):
        downloading()
    assert len(downloading.hub.requests) == MAX_TRIES


def test_cancelling_ends_the_waiting_between_tries(downloading: Downloading) -> None:
    downloading.hub.faults.status, downloading.hub.faults.n_status = 503, 100

    def cancel(_: float) -> None:
        downloading.cancelled.set()

    downloading.sleep = cancel
    with pytest.raises(DownloadCancelled):
        downloading()
    assert len(downloading.hub.requests) == 1


def test_an_empty_file_is_a_file(downloading: Downloading) -> None:
    assert downloading(size=0, sha256=hashlib.sha256(b"").hexdigest()) == hashlib.sha256(b"").hexdigest()
    assert downloading.part.read_bytes() == b""
