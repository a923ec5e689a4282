"""Whether two models mean the same by their tokens."""

from __future__ import annotations

from appliance.engine.llama.library import lib
from appliance.engine.llama.model import Model

# As llama.cpp has it (common/speculative.cpp): vocabularies are padded differently, and tokens below this one are
# control tokens that each model names as it likes.
_MAX_SIZE_DIFFERENCE = 128
_FIRST_COMPARED = 5


def difference(model: Model, other: Model) -> str | None:
    """What is different about the other's vocabulary, in words; None: it is the same as far as it matters."""
    one, two = model.vocab, other.vocab
    if lib.llama_vocab_type(one) != lib.llama_vocab_type(two):
        return "it is of another type"
    for name, is_added, token in (
        ("beginning", lib.llama_vocab_get_add_bos, lib.llama_vocab_bos),
        ("end", lib.llama_vocab_get_add_eos, lib.llama_vocab_eos),
    ):
        if is_added(one) != is_added(two) or (is_added(one) and token(one) != token(two)):
            return f"it marks a text's {name} otherwise"
    if abs(model.n_vocab - other.n_vocab) > _MAX_SIZE_DIFFERENCE:
        return f"it has {other.n_vocab} tokens instead of {model.n_vocab}"
    for number in range(_FIRST_COMPARED, min(model.n_vocab, other.n_vocab)):
        text, other_text = lib.llama_vocab_get_text(one, number), lib.llama_vocab_get_text(two, number)
        if text != other_text:
            shown, other_shown = (one_text.decode("utf-8", "replace") for one_text in (text, other_text))
            return f"its token {number} is {other_shown!r} instead of {shown!r}"
    return None
