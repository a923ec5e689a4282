"""Chat completions in OpenAI's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from appliance.api.wire.stream import ChunkStream, head, timings, usage
from appliance.engine.messages import TokenLogprob
from appliance.service.completion import Completion
from appliance.service.generation import Answer


def chat_completion(completion: Completion, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    with_logprobs = completion.generations[0].submit.top_logprobs is not None
    return {
        **head(completion, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
                "logprobs": _logprobs(choice.logprobs) if with_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(answer.choices)
        ],
        "usage": usage([answer.usage]),
        "timings": timings(completion, [answer.usage]),
    }


class ChatChunks(ChunkStream):
    kind = "chat.completion.chunk"

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(
            self.chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            for index in range(self.completion.n_choices)
        )

    def body(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        rendered = orjson.dumps(_logprobs(logprobs)) if logprobs else b"null"
        return b',"delta":{"content":' + orjson.dumps(text) + b'},"logprobs":' + rendered

    def last_choice(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}


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
