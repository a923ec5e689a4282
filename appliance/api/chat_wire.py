"""Chat completions in OpenAI's JSON: whole, and as chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from appliance.api.streaming import DONE, frame
from appliance.engine.messages import Accepted, Event, Finished, Piece, SequenceFinished, TokenLogprob
from appliance.service.chat import ChatCompletion
from appliance.service.generation import Answer


def completion(chat: ChatCompletion, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    with_logprobs = chat.generation.submit.top_logprobs is not None
    return {
        **_head(chat, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
                "logprobs": _logprobs(choice.logprobs) if with_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(answer.choices)
        ],
        "usage": _usage(answer.usage),
    }


class ChunkStream:
    """The events of a streamed answer as server-sent frames."""

    def __init__(self, chat: ChatCompletion, *, include_usage: bool) -> None:
        self._chat = chat
        self._include_usage = include_usage
        self._with_logprobs = chat.generation.submit.top_logprobs is not None
        self._batches = chat.generation.events()
        # Every frame of text is this, the text as JSON, and the rest: nothing else in it changes.
        head = orjson.dumps(_head(chat, "chat.completion.chunk"))[:-1]
        self._before_index = b"data: " + head + b',"choices":[{"index":'
        self._before_text = b',"delta":{"content":'
        self._after_text = b'},"logprobs":'
        self._end = b',"finish_reason":null}]' + (b',"usage":null' if include_usage else b"") + b"}\n\n"

    async def first(self) -> bytes:
        """The frames that open the stream, once the request is accepted; a refusal is raised instead."""
        events = await anext(self._batches)
        opening = b"".join(
            self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, None)
            for index in range(self._chat.generation.submit.n)
        )
        return opening + self._frames(events)

    def __aiter__(self) -> ChunkStream:
        return self

    async def __anext__(self) -> bytes:
        """The frames of what has come since."""
        while True:
            if data := self._frames(await anext(self._batches)):
                return data

    async def aclose(self) -> None:
        """Aborts the request unless it has ended."""
        await self._batches.aclose()

    def _frames(self, events: Iterable[Event]) -> bytes:
        frames = []
        for event in events:
            match event:
                case Piece(_, index, text, logprobs):
                    self._chat.generation.is_committed = True
                    frames.append(self._text(index, text, logprobs))
                case SequenceFinished(_, index, reason):
                    frames.append(self._chunk(index, {}, reason))
                case Finished():
                    if self._include_usage:
                        frames.append(
                            frame(
                                {
                                    **_head(self._chat, "chat.completion.chunk"),
                                    "choices": [],
                                    "usage": _usage(event),
                                }
                            )
                        )
                    frames.append(DONE)
                case Accepted():
                    pass
        return b"".join(frames)

    def _text(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        rendered = orjson.dumps(_logprobs(logprobs)) if self._with_logprobs else b"null"
        return b"".join(
            (
                self._before_index,
                str(index).encode(),
                self._before_text,
                orjson.dumps(text),
                self._after_text,
                rendered,
                self._end,
            )
        )

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        body = {**_head(self._chat, "chat.completion.chunk"), "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return frame(body)


def _head(chat: ChatCompletion, kind: str) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": chat.created_s, "model": chat.model}


def _usage(usage: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.n_prompt,
        "completion_tokens": usage.n_completion,
        "total_tokens": usage.n_prompt + usage.n_completion,
        "prompt_tokens_details": {"cached_tokens": usage.n_cached},
    }


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
