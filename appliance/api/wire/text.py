"""Text completions in OpenAI's older JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from appliance.api.wire.stream import ChunkStream, head, timings, usage
from appliance.engine.messages import TokenLogprob
from appliance.service.completion import Completion
from appliance.service.generation import Answer

KIND = "text_completion"


def text_completion(completion: Completion, answers: list[Answer]) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    with_logprobs = completion.generations[0].submit.top_logprobs is not None
    choices: list[dict[str, Any]] = []
    for answer in answers:
        for choice in answer.choices:
            choices.append(
                {
                    "index": len(choices),
                    "text": "".join(choice.text),
                    "logprobs": _logprobs(choice.logprobs, 0) if with_logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
            )
    usages = [answer.usage for answer in answers]
    return {
        **head(completion, KIND),
        "choices": choices,
        "usage": usage(usages),
        "timings": timings(completion, usages),
    }


class TextChunks(ChunkStream):
    kind = KIND

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        super().__init__(completion, include_usage=include_usage)
        self._offsets = [0] * completion.n_choices

    def opening(self) -> bytes:
        return b""

    def piece(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> tuple[bytes, ...]:
        rendered = orjson.dumps(_logprobs(logprobs, self._offsets[index])) if logprobs else b"null"
        self._offsets[index] += len(text)
        body = b',"text":' + orjson.dumps(text) + b',"logprobs":' + rendered
        return self.begin, str(index).encode(), body, self.end

    def last_choice(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}


def _logprobs(records: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """OpenAI's older shape: four lists, one entry a token; ``text_offset`` in characters of the choice's text."""
    tokens, values, top, offsets = [], [], [], []
    for record in records:
        text = record.token.decode("utf-8", "replace")
        tokens.append(text)
        values.append(record.logprob)
        top.append({token.decode("utf-8", "replace"): logprob for token, logprob in record.top})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
