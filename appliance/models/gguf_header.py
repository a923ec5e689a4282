"""What serving needs to know of a GGUF file, read once when the file is published."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.engine.control_tokens import CONTROL_TEXT
from appliance.errors import ConfigError
from appliance.models.gguf_file import GGUFFile, read_gguf


class GGUFHeader(msgspec.Struct, frozen=True):
    """``control_tokens`` are the texts that a tokenizer turns into control tokens where it is told to parse them.

    ``pooling`` is how one vector is made of a text's: ``mean``, ``cls`` or ``last`` of an embedding model, ``rank`` of
    one that rates a text for a question; empty for models that write text. ``n_embd`` numbers are in a vector.
    """

    architecture: str
    n_ctx_train: int
    n_params: int
    tensor_types: tuple[str, ...]
    chat_template: str | None
    bos_token: str
    eos_token: str
    control_tokens: tuple[str, ...]
    longest_token_bytes: int
    pooling: str = ""
    n_embd: int = 0

    @property
    def kind(self) -> str:
        """What the model is for: one of :data:`KINDS`."""
        return EMBEDDING if self.pooling not in ("", _RANK) else RERANK if self.pooling else TEXT


# It goes on with texts, makes vectors of them, or rates them for a question.
KINDS = TEXT, EMBEDDING, RERANK = "text", "embedding", "rerank"
_RANK = "rank"
# llama.cpp's enum llama_pooling_type; 0 is none.
_POOLING = {1: "mean", 2: "cls", 3: "last", 4: _RANK}
# Architectures of encoders, which write no text. Where such a header doesn't say how to pool, it is the mean, as
# sentence-transformers has it.
_ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
# llama.cpp's enum llama_token_type.
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3


def read_header(path: Path) -> GGUFHeader:
    """Raises ConfigError if the file is no GGUF file or lacks what serving needs."""
    return header_of(read_gguf(path), path)


def header_of(file: GGUFFile, path: Path) -> GGUFHeader:
    """As :func:`read_header`, of a file that was read already; ``path`` is for its errors."""

    def value(key: str, kind: type | tuple[type, ...]) -> Any:
        found = file.metadata.get(key)
        if found is not None and not isinstance(found, kind):
            raise ConfigError(f"{path}: {key} in its header is {type(found).__name__}, which it can't be")
        return found

    n_parts = value("split.count", int) or 1
    if n_parts > 1:
        raise ConfigError(f"{path} is one of {n_parts} parts of a model; a whole file is wanted")
    architecture = value("general.architecture", str)
    n_ctx_train = value(f"{architecture}.context_length", int)
    if architecture is None or n_ctx_train is None:
        raise ConfigError(f"{path} has no general.architecture or no context length in its header")
    tokens: list[str] = value("tokenizer.ggml.tokens", list) or []
    # Without types, everything that looks like one counts.
    types: Sequence[int] = value("tokenizer.ggml.token_type", array) or [_NORMAL] * len(tokens)

    def token_text(key: str) -> str:
        number = value(key, int)
        return tokens[number] if number is not None and 0 <= number < len(tokens) else ""

    return GGUFHeader(
        architecture=architecture,
        n_ctx_train=n_ctx_train,
        n_params=sum(tensor.n_elements for tensor in file.tensors),
        tensor_types=tuple(sorted({tensor.type_name for tensor in file.tensors})),
        chat_template=value("tokenizer.chat_template", str),
        bos_token=token_text("tokenizer.ggml.bos_token_id"),
        eos_token=token_text("tokenizer.ggml.eos_token_id"),
        control_tokens=tuple(
            text
            for text, kind in zip(tokens, types, strict=False)
            if text and (kind in (_UNKNOWN, _CONTROL) or CONTROL_TEXT.fullmatch(text))
        ),
        # At least as long as the token's text: byte-level vocabularies write some bytes as longer characters.
        longest_token_bytes=max((len(text.encode("utf-8", "replace")) for text in tokens), default=1),
        pooling=_POOLING.get(
            value(f"{architecture}.pooling_type", int) or 0, "mean" if architecture in _ENCODERS else ""
        ),
        n_embd=value(f"{architecture}.embedding_length_out", int)
        or value(f"{architecture}.embedding_length", int)
        or 0,
    )
