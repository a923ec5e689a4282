from __future__ import annotations

import os

import pytest

from appliance.engine.output import MAX_LINE_BYTES, EngineOutput

ASSERTION = "/build/ggml/src/ggml.c:123: GGML_ASSERT(n_dims == 4) failed"
INFO = "2026-01-02 03:04:05,678 INFO    appliance.engine.runner engine_ready pid=1"
WARNING = "2026-01-02 03:04:05,678 WARNING appliance.llama unable to allocate a pinned buffer"
ERROR = "2026-01-02 03:04:05,678 ERROR   appliance.llama CUDA error: out of memory"
JSON_INFO = '{"time": "2026-01-02T03:04:05.678Z", "level": "info", "logger": "x", "event": "engine_ready"}'
JSON_ERROR = '{"time": "2026-01-02T03:04:05.678Z", "level": "error", "logger": "x", "message": "no"}'


def output_of(*written: bytes) -> tuple[EngineOutput, list[str]]:
    """What was read of an engine that wrote this and ended."""
    lines: list[str] = []
    read_end, write_end = os.pipe()
    output = EngineOutput(os.fdopen(read_end, "rb", buffering=0), lines.append)
    for data in written:
        os.write(write_end, data)
    os.close(write_end)
    output.wait(20)
    return output, lines


def test_every_line_is_passed_on_unchanged_and_the_last_one_without_its_end_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, lines = output_of(b"one\ntw", b"o\n\n", "drü".encode()[:-1], "ü".encode()[1:], b"ei")
    assert lines == ["one", "two", "", "drüei"]
    assert capfd.readouterr().err == "one\ntwo\n\ndrüei\n"


def test_bytes_that_are_no_text_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    _, lines = output_of(b"\xff\xfe\n")
    assert lines == ["��"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end_is_cut_into_several(end: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    _, lines = output_of(b"x" * MAX_LINE_BYTES, b"y" * MAX_LINE_BYTES, b"z" + end)
    assert [(line[0], len(line)) for line in lines] == [("x", MAX_LINE_BYTES), ("y", MAX_LINE_BYTES), ("z", 1)]


def test_more_than_a_pipe_holds_is_read_while_it_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    _, lines = output_of(*[b"0123456789\n" * 1000] * 50)
    assert len(lines) == 50_000


def test_a_log_that_nobody_reads_does_not_stop_the_engine() -> None:
    ours = os.dup(2)
    unread, closed = os.pipe()
    os.close(unread)
    os.dup2(closed, 2)
    try:
        _, lines = output_of(b"one\n", b"two\n")
    finally:
        os.dup2(ours, 2)
        os.close(ours)
        os.close(closed)
    assert lines == ["one", "two"]


@pytest.mark.parametrize(
    ("lines", "last_words"),
    [
        ([INFO, ASSERTION], ASSERTION),
        ([ASSERTION, INFO, JSON_INFO, "", "  "], ASSERTION),
        ([INFO, ERROR, WARNING], ERROR),
        ([JSON_ERROR, JSON_INFO], JSON_ERROR),
        (["Traceback (most recent call last):", "ImportError: no numpy"], "ImportError: no numpy"),
        ([INFO, JSON_INFO], ""),
        ([], ""),
        (["x" * 1000], "x" * 300),
    ],
)
def test_the_last_words_are_the_last_line_that_is_no_common_record(
    lines: list[str], last_words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output, _ = output_of("\n".join(lines).encode())
    assert output.last_words == last_words


def test_a_want_of_memory_is_seen_in_errors_only(capfd: pytest.CaptureFixture[str]) -> None:
    assert output_of(f"{ERROR}\nggml-cuda.cu:96: CUDA error\n".encode())[0].ran_out_of_memory
    assert not output_of(f"{WARNING}\n{ASSERTION}\n".encode())[0].ran_out_of_memory
