"""What the header of a GGUF file says, read once when the file is published.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from appliance.errors import ConfigError


class GGUFHeader(msgspec.Struct, frozen=True):
    """``control_tokens`` are the texts that a tokenizer turns into control tokens where it is told to parse them."""

    architecture: str
    n_ctx_train: int
    tensor_types: tuple[str, ...]
    chat_template: str | None
    bos_token: str
    eos_token: str
    control_tokens: tuple[str, ...]
    longest_token_bytes: int


# What llama.cpp takes for a control token by its text, whatever the file says of its type (llama-vocab.cpp); a few
# ordinary tokens more do no harm here.
_CONTROL_TEXT = re.compile(r"_?<(\|.*\||｜.*｜|[a-z]+_of_[a-z_]+|EOT|eos|bos|eot|/?s|unk|pad)>")


def read_header(path: Path) -> GGUFHeader:
    """Raises ConfigError if the file is no GGUF file or lacks what serving needs."""
    # gguf imports slowly and is wanted at publication only.
    from gguf import GGUFReader, TokenType

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise ConfigError(f"{path} is no readable GGUF file: {error}") from None

    def value(key: str) -> Any:
        entry = reader.get_field(key)
        return None if entry is None else entry.contents()

    architecture = value("general.architecture")
    n_ctx_train = value(f"{architecture}.context_length")
    if architecture is None or n_ctx_train is None:
        raise ConfigError(f"{path} has no general.architecture or no context length in its header")
    tokens: list[str] = value("tokenizer.ggml.tokens") or []
    # Without types, everything that looks like one counts.
    types: list[int] = value("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)

    def token_text(key: str) -> str:
        number = value(key)
        return tokens[number] if number is not None and number < len(tokens) else ""

    parsed = (TokenType.CONTROL, TokenType.UNKNOWN)
    return GGUFHeader(
        architecture=architecture,
        n_ctx_train=n_ctx_train,
        tensor_types=tuple(sorted({tensor.tensor_type.name for tensor in reader.tensors})),
        chat_template=value("tokenizer.chat_template"),
        bos_token=token_text("tokenizer.ggml.bos_token_id"),
        eos_token=token_text("tokenizer.ggml.eos_token_id"),
        control_tokens=tuple(
            text
            for text, kind in zip(tokens, types, strict=False)
            if text and (kind in parsed or _CONTROL_TEXT.fullmatch(text))
        ),
        # At least as long as the token's text: byte-level vocabularies write some bytes as longer characters.
        longest_token_bytes=max((len(text.encode("utf-8", "replace")) for text in tokens), default=1),
    )
