"""``appliance cache``, as an operator meets it."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.answer import Answer
from appliance.cache.store import ResponseCache
from appliance.cli.cache import _seconds
from appliance.cli.request_lines import Line, parts, read_lines
from appliance.errors import ConfigError
from tests.api.commands import Said, run, said, start
from tests.fake_models import digest
from tests.gateway import Gateway, engine_config, run_gateway
from tests.machine_room import until
from tests.response_cache import FILE, open_cache

# The command, which tells of every step.
TALKATIVE = "from appliance.cli import main, progress; progress.LINE_INTERVAL_S = 0.0; main()"
VERSION = digest("fake")[:12]


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    async with open_cache(tmp_path, ttl_s=7 * 86400.0) as opened:
        yield opened


@pytest.fixture
async def gateway(cache: ResponseCache) -> AsyncIterator[Gateway]:
    async with run_gateway(cache=cache) as running:
        yield running


def chat(content: str = "a", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0, **fields}


def written(path: Path, *lines: object) -> str:
    """A file with these as its lines."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


async def test_an_empty_cache_is_told(gateway: Gateway, tmp_path: Path) -> None:
    assert (await run(gateway, "cache", "stats")).out.splitlines() == [
        f"file       {tmp_path / FILE}",
        "used       20 KiB of 64 MiB",
        "kept for   7 d",
        "prompts    0 hits, 0 joined, 0 misses",
        "passed by  none",
        "saved      0 tokens, 0.0 s of computing",
        "evicted    0 answers; 0 could not be kept; 0 reads failed",
        "no answer is stored",
    ]


async def test_what_it_did_is_told_and_what_is_in_it(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.chat()
    await gateway.chat(temperature=1)
    shown = (await run(gateway, "cache", "stats")).out.splitlines()
    assert shown[3:5] == ["prompts    2 hits, 0 joined, 1 misses (67% not computed)", "passed by  1 sampled"]
    assert shown[5].startswith("saved      8 tokens, 0.")
    assert shown[7].startswith(f"  fake@{VERSION}  key -  1 answer, 4 tokens, the oldest ")
    as_json = await run(gateway, "cache", "stats", "--json")
    assert as_json.error == ""
    assert json.loads(as_json.out)["status"]["hits"] == 2
    status = (await run(gateway, "status")).out
    assert "response cache  2 hits, 0 joined, 1 misses; 20 KiB of 64 MiB\n" in status


async def test_why_nothing_can_be_kept_is_told(tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / FILE)
    foreign.execute("CREATE TABLE bills (sum)")
    foreign.close()
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        await until(lambda: cache.problem)
        problem = f"{tmp_path / FILE} is another program's database: name another file"
        assert f"  no answer can be kept: {problem}\n" in (await run(gateway, "status")).out
        failed = Said(1, "", f"error: the response cache can't be worked with at the moment: {problem}\n")
        assert await run(gateway, "cache", "stats") == failed
        warming = await run(gateway, "cache", "warm", written(tmp_path / "requests", chat()))
        assert warming == Said(1, "", f"warming\nerror: no answer can be kept at the moment: {problem}\n")


async def test_a_cache_that_is_off_says_how_to_have_it_on(tmp_path: Path) -> None:
    file = written(tmp_path / "requests", chat())
    async with run_gateway() as gateway:
        for command in (("stats",), ("purge", "--all"), ("vacuum",), ("warm", file)):
            failed = await run(gateway, "cache", *command)
            assert (failed.status, failed.out) == (1, "")
            message = "error: the response cache is off; set response_cache to true, and start the server again\n"
            assert failed.error.endswith(message)
        assert "response cache" not in (await run(gateway, "status")).out


async def test_answers_are_purged(gateway: Gateway, cache: ResponseCache) -> None:
    for number in range(3):
        cache.put(bytes([number]), Answer(1, 1, 1.0, ()), model="fake", version=VERSION, owner=f"app-{number}")
    nothing = "there is no such answer; `appliance cache stats` lists those that there are\n"
    assert await run(gateway, "cache", "purge", "--model", "fake", "--older-than", "1.5h") == Said(0, nothing, REMOVING)
    one = Said(0, "removed 1 answer; `appliance cache vacuum` gives the room back to the disk\n", REMOVING)
    assert await run(gateway, "cache", "purge", "--model", f"fake@{VERSION[:6]}", "--key", "app-1") == one
    assert await run(gateway, "cache", "purge", "--all", "--json") == Said(0, '{\n "purged": 2\n}\n', REMOVING)


REMOVING = "removing answers\n"
CHOICE = "say either which answers, by --model, --key or --older-than, or --all"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), CHOICE),
        (("--all", "--key", "app"), CHOICE),
        (("--all", "--older-than", "7d"), CHOICE),
        (("--older-than", "-1"), "--older-than '-1': want a time such as 30m, 12h or 7d"),
        (("--model", ""), "model: is empty"),
        (("--key", "\udcff"), "key: holds half of a surrogate pair, which is no character"),
        (("--model", "fake@"), "'fake@' is no model: want NAME or NAME@VERSION"),
    ],
)
async def test_a_purge_that_is_not_clear_removes_nothing(
    gateway: Gateway, options: tuple[str, ...], message: str
) -> None:
    await gateway.chat()
    refused = await run(gateway, "cache", "purge", *options)
    assert (refused.status, refused.out) == (1, "")
    assert refused.error.removeprefix(REMOVING) == f"error: {message}\n"
    assert (await gateway.chat()).headers["X-Cache"] == "hit"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5m", 90), (".5h", 1800), ("7d", 7 * 86400)]
)
def test_an_age_may_have_a_unit(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-1", "1e400", "9" * 400 + "d", "7x", "7 d", " 7d", "7d\n", "٧d", "d", "1_0", "1.", "."]
)
def test_an_age_that_is_none_says_what_is_wanted(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _seconds(text)
    assert refused.value.message == f"--older-than {text!r}: want a time such as 30m, 12h or 7d"


async def test_a_vacuum_says_what_it_gave_back(gateway: Gateway) -> None:
    assert await run(gateway, "cache", "vacuum") == Said(
        0, "20 KiB before, 20 KiB now\n", "writing the response cache anew\n"
    )
    as_json = await run(gateway, "cache", "vacuum", "--json")
    assert json.loads(as_json.out) == {"before_bytes": 20480, "after_bytes": 20480}


async def test_a_file_is_warmed_and_each_line_that_was_not_kept_is_told(gateway: Gateway, tmp_path: Path) -> None:
    file = written(
        tmp_path / "requests.jsonl",
        chat("a"),
        "",
        {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "b", "temperature": 0}},
        {"custom_id": "2", "method": "POST", "url": "/v1/embeddings", "body": {"input": "b"}},
        chat("a", temperature=None),
        chat("a", temperature=3),
    )
    await gateway.chat("a")
    told = Said(
        1,
        "line 4: error: url: want one of /v1/chat/completions, /v1/completions\n"
        "line 5: not kept: it has neither temperature 0 nor a seed\n"
        "line 6: error: temperature: want less than or equal to 2\n"
        "1 answer computed, 1 were there, 1 can't be kept, 2 failed\n",
        "warming\n",
    )
    assert await run(gateway, "cache", "warm", file) == told
    as_json = await run(gateway, "cache", "warm", file, "--json")
    assert [(line["line"], line["state"]) for line in json.loads(as_json.out)] == [
        *((1, "hit"), (3, "hit"), (4, "error"), (5, "bypass"), (6, "error")),
    ]
    assert (as_json.status, as_json.error) == (1, "warming\n")


async def test_of_many_lines_that_were_not_kept_some_are_told(gateway: Gateway, tmp_path: Path) -> None:
    file = written(tmp_path / "requests.jsonl", *[chat(str(number), temperature=1) for number in range(600)])
    told = await run(gateway, "cache", "warm", file)
    assert told.status == 0
    shown = told.out.splitlines()
    assert shown[19:] == [
        "line 20: not kept: it has neither temperature 0 nor a seed",
        "... and 580 more; --json shows all",
        "0 answers computed, 0 were there, 600 can't be kept, 0 failed",
    ]
    assert len(json.loads((await run(gateway, "cache", "warm", file, "--json")).out)) == 600


async def test_a_file_that_is_no_good_is_refused_before_anything_is_computed(gateway: Gateway, tmp_path: Path) -> None:
    file = written(tmp_path / "requests.jsonl", chat(), "{]")
    refused = await run(gateway, "cache", "warm", file)
    assert (refused.status, refused.out) == (1, "")
    assert refused.error.startswith(f"error: {file} line 2: no valid JSON: ")
    assert not gateway.activity.recent


async def test_bodies_are_sent_in_parts_that_the_server_takes(cache: ResponseCache, tmp_path: Path) -> None:
    bodies = [chat(f"{number} ", user="u" * 700) for number in range(9)]
    bodies.insert(4, chat("x", user="u" * 3000))
    file = written(tmp_path / "requests.jsonl", *bodies)
    async with run_gateway(cache=cache, max_body_bytes=2048) as gateway:
        told = await run(gateway, "cache", "warm", file)
        assert told == Said(
            1,
            "line 5: error: the body is larger than 2048 bytes; max_body_bytes is its limit\n"
            "9 answers computed, 0 were there, 0 can't be kept, 1 failed\n",
            "warming\n",
        )


async def test_ctrl_c_ends_what_runs_and_says_what_was_done(cache: ResponseCache, tmp_path: Path) -> None:
    endless = [chat(f"{number} ", max_tokens=200, ignore_eos=True) for number in range(20)]
    file = written(tmp_path / "requests.jsonl", chat("short "), "", *endless)
    async with run_gateway(orders={"fake": {"step_s": 0.05}}, cache=cache) as gateway:
        warming = await start(gateway, "cache", "warm", file, "--json", program=("-c", TALKATIVE))
        assert warming.stderr is not None
        assert [(await warming.stderr.readline()).split()[:2] for _ in range(2)] == [[b"warming"], [b"warming:", b"4"]]
        warming.send_signal(signal.SIGINT)
        told = await said(warming)
        assert told.status == 130
        assert json.loads(told.out) == [{"line": 1, "state": "miss", "reason": None}]
        assert told.error == (
            "stopped: line 3 is the first that is not done. The same command goes on from there: "
            "what is stored is not computed again\n"
        )
        await until(lambda: not gateway.activity.running())
        assert (await gateway.chat("short ")).headers["X-Cache"] == "hit"


async def test_a_server_that_ends_leaves_what_was_done(cache: ResponseCache, tmp_path: Path) -> None:
    file = written(tmp_path / "requests.jsonl", *[chat(f"{number} ", max_tokens=20) for number in range(30)])
    async with run_gateway(engine_config(max_running=1), orders={"fake": {"step_s": 0.01}}, cache=cache) as gateway:
        warming = await start(gateway, "cache", "warm", file)
        await until(lambda: len(gateway.activity.recent) >= 2)
        gateway.server.stop()
        told = await said(warming)
        n_done = int(told.out.split()[0])
        assert 2 <= n_done < 30
        assert told == Said(
            1,
            f"{n_done} answers computed, 0 were there, 0 can't be kept, 0 failed\n",
            f"warming\nstopped: line {n_done + 1} is the first that is not done. The same command goes on from there: "
            "what is stored is not computed again\nerror: the server is stopping\n",
        )
        (group,) = await cache.groups()
        assert group.n_answers == n_done


async def test_a_file_is_warmed_for_one_key(cache: ResponseCache, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef name=app\nsk-1123456789abcdef name=other\n")
    file = written(tmp_path / "requests.jsonl", chat())
    async with run_gateway(cache=cache, keys=keys) as gateway:
        unnamed = await run(gateway, "cache", "warm", file)
        assert unnamed.error == (
            "warming\nerror: answers belong to API keys: name the one whose apps will ask, of app, other\n"
        )
        assert (await run(gateway, "cache", "warm", file, "--key", "app")).status == 0
        states = []
        for key in ("sk-0123456789abcdef", "sk-1123456789abcdef"):
            headers = {"Authorization": f"Bearer {key}"}
            response = await gateway.http.post("/v1/chat/completions", json=chat(), headers=headers)
            states.append(response.headers["X-Cache"])
        assert states == ["hit", "miss"]
        assert (await run(gateway, "cache", "purge", "--key", "app", "--json")).out == '{\n "purged": 1\n}\n'


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b'{"a": 1}', [(1, b'{"a": 1}')]),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n  {"b": 2}\t\r\n', [(1, b'{"a": 1}'), (3, b'{"b": 2}')]),
        ('{"a": "\u2028é"}\n'.encode(), [(1, '{"a": "\u2028é"}'.encode())]),
        # What the server has to say something of: it reads as it does.
        (b'{"a": NaN, "b": 1e400, "c": "\\ud800"}', [(1, b'{"a": NaN, "b": 1e400, "c": "\\ud800"}')]),
    ],
)
def test_lines_are_read_as_they_stand(tmp_path: Path, data: bytes, lines: list[tuple[int, bytes]]) -> None:
    (tmp_path / "file").write_bytes(data)
    assert [(line.number, line.text) for line in read_lines(tmp_path / "file")] == lines


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "{file} holds no request"),
        (b"\xef\xbb\xbf\r\n \n", "{file} holds no request"),
        (b'{"a": 1}\n\n{"a": }\n', "{file} line 3: no valid JSON: Expecting value: line 1 column 7 (char 6)"),
        (b'{"a": 1} {"b": 2}', "{file} line 1: no valid JSON: Extra data: line 1 column 10 (char 9)"),
        (b'{"a": "\xff"}', "{file} line 1: no text in UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "{file} line 1: no text in UTF-8"),
        (b"[" * 100_000, "{file} line 1: no valid JSON: too deeply nested"),
        (b"[1]", "{file} line 1: want a JSON object, the body of a request"),
        (b'"text"\n', "{file} line 1: want a JSON object, the body of a request"),
    ],
)
def test_a_file_that_is_no_good_says_where(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        read_lines(file)
    assert refused.value.message == message.format(file=file)


def test_a_number_of_too_many_digits_is_no_valid_json(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"seed": ' + b"1" * 5000 + b"}")
    with pytest.raises(ConfigError, match="line 1: no valid JSON: Exceeds the limit"):
        read_lines(tmp_path / "file")


def test_a_file_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    for file, reason in ((tmp_path / "nosuch", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as refused:
            read_lines(file)
        assert refused.value.message == f"{file} can't be read: {reason}"


def test_a_large_file_shows_how_far_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("appliance.cli.request_lines._LARGE_BYTES", 100)
    monkeypatch.setattr("appliance.cli.progress.LINE_INTERVAL_S", 0.0)
    (tmp_path / "file").write_bytes(b'{"a": "0123456789"}\n' * 10)
    assert len(read_lines(tmp_path / "file")) == 10
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"reading {tmp_path / 'file'} (200 bytes)"
    assert [line.split()[2] for line in told[1:]] == [str(done) for done in range(10, 101, 10)]


def test_parts_have_a_bound_in_lines_and_in_bytes() -> None:
    lines = [Line(number, b"x" * size) for number, size in enumerate((1, 1, 1, 5, 9, 1, 4, 1))]
    found = list(parts(lines, max_lines=3, max_bytes=5))
    assert [[line.number for line in part] for part in found] == [[0, 1, 2], [3], [4], [5, 6], [7]]
    assert list(parts([], max_lines=3, max_bytes=5)) == []
