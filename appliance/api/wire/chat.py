"""Chat completions in OpenAI's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from appliance.api.wire import tools
from appliance.api.wire.stream import ChunkStream, head, timings, usage
from appliance.chat.tools import CallEvent
from appliance.engine.messages import TokenLogprob
from appliance.service.completion import Completion
from appliance.service.generation import Answer, Choice


def chat_completion(completion: Completion, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    with_logprobs = completion.generations[0].submit.top_logprobs is not None
    return {
        **head(completion, "chat.completion"),
        "choices": [
            {
                "index": index,
                **_message(completion, choice),
                "logprobs": _logprobs(choice.logprobs) if with_logprobs else None,
            }
            for index, choice in enumerate(answer.choices)
        ],
        "usage": usage([answer.usage]),
        "timings": timings(completion, [answer.usage]),
    }


def chat_chunks(completion: Completion, *, include_usage: bool) -> ChatChunks:
    """The same as a stream."""
    kind = ChatChunks if completion.tool_use is None else ToolChunks
    return kind(completion, include_usage=include_usage)


def _message(completion: Completion, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.text)
    if completion.tool_use is None:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "finish_reason": choice.finish_reason}
    reading = completion.tool_use.read(text, choice.finish_reason)
    return {"message": tools.message(reading, completion.tool_use), "finish_reason": reading.finish_reason}


class ChatChunks(ChunkStream):
    kind = "chat.completion.chunk"

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(
            self.chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            for index in range(self.completion.n_choices)
        )

    def piece(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterable[bytes]:
        rendered = orjson.dumps(_logprobs(logprobs)) if logprobs else b"null"
        body = b',"delta":{"content":' + orjson.dumps(text) + b'},"logprobs":' + rendered
        return self.begin, str(index).encode(), body, self.end

    def last_choice(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}


class ToolChunks(ChatChunks):
    """The text is read for calls. A token's record goes with the first frame after it, be that of a call."""

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        super().__init__(completion, include_usage=include_usage)
        assert completion.tool_use is not None
        self._use = completion.tool_use
        # Nothing was read when an answer begins again: with the first text it can't any more.
        self._readers = [self._use.reader() for _ in range(completion.n_choices)]
        self._records: list[list[TokenLogprob]] = [[] for _ in self._readers]

    def piece(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterable[bytes]:
        self._records[index] += logprobs
        return self._deltas(index, self._readers[index].push(text))

    def rest(self, index: int) -> Iterable[bytes]:
        return self._deltas(index, self._readers[index].finish())

    def last_choice(self, index: int, finish_reason: str) -> dict[str, Any]:
        reason = self._readers[index].finish_reason(finish_reason)
        return {"index": index, "delta": {}, "logprobs": self._taken(index), "finish_reason": reason}

    def _deltas(self, index: int, events: Iterable[CallEvent]) -> Iterator[bytes]:
        for event in events:
            body = {"delta": tools.delta(event, self._use), "logprobs": self._taken(index)}
            yield from (self.begin, str(index).encode(), b"," + orjson.dumps(body)[1:-1], self.end)

    def _taken(self, index: int) -> dict[str, Any] | None:
        records, self._records[index] = self._records[index], []
        return _logprobs(records) if records else None


def _logprobs(records: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                **_token(record.token, record.logprob),
                "top_logprobs": [_token(token, logprob) for token, logprob in record.top],
            }
            for record in records
        ],
        "refusal": None,
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}
