"""What grammars need of llama.cpp: its vocabulary, and the mask on its logits."""

from __future__ import annotations

import ctypes

import numpy as np
from llguidance import LLTokenizer

from appliance.engine.control_tokens import CONTROL_TEXT, special_token
from appliance.engine.llama.context import Logits
from appliance.engine.llama.library import lib
from appliance.engine.llama.model import Model

# How llguidance marks a special token among the others' bytes.
_SPECIAL = b"\xff"
_SPECIAL_ATTRS = lib.LLAMA_TOKEN_ATTR_UNKNOWN | lib.LLAMA_TOKEN_ATTR_CONTROL


def grammar_vocabulary(model: Model) -> LLTokenizer:
    """The vocabulary as llguidance wants it: control tokens are special, all others what they write."""
    tokens = [_bytes(model, token) for token in range(model.n_vocab)]
    tokenize = ctypes.cast(lib._lib.llama_tokenize, ctypes.c_void_p).value
    ends = [token for token in range(model.n_vocab) if model.is_eog(token)]
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
        tokens=tokens, vocab_ptr=ctypes.cast(model.vocab, ctypes.c_void_p).value, tokenize_fptr=tokenize, eos_token=ends
    )


def mask_logits(logits: Logits, mask: bytes) -> None:
    """Makes all tokens impossible that ``mask`` has no bit for; ``logits`` has shape (n_vocab,)."""
    banned = np.unpackbits(~np.frombuffer(mask, np.uint8), count=len(logits), bitorder="little")
    logits[banned.view(np.bool_)] = -np.inf


def _bytes(model: Model, token: int) -> bytes:
    name = model.token_name(token).decode("utf-8", "replace")
    # The same as in the gateway, which names them in grammars: ``GGUFHeader.control_tokens``.
    is_special = lib.llama_vocab_get_attr(model.vocab, token) & _SPECIAL_ATTRS or CONTROL_TEXT.fullmatch(name)
    return _SPECIAL + special_token(name).encode() if is_special else model.token_bytes(token)
