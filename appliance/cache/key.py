"""Which requests have the same answer, and which have one that may be kept.

The canonical form of a request has all fields of the engine's own :class:`Submit` by their names, defaults filled in,
less those that say who asks, when it is their turn and how it is computed; what has no effect is at its default, and
what has no order is sorted. So whatever reaches the engine is in the key, a field that comes later too, and two ways to
ask for the same are one. What never reaches the engine (``stream``, ``service_tier``, ``user``) is in no key. To it
come the bytes and the template of the model, its adapter with the scale, the types of its KV cache, the engine's
build, this release, and the
scope: who may share the answer. All of it is written as msgpack and hashed.

``VERSION`` is raised whenever the form changes; the appliance's own version is in every key, since a release may
change what comes of the same request.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

import appliance
from appliance.engine.messages import Submit
from appliance.engine.params import SamplingParams

VERSION = 3

# Who asks, when it is their turn, and how it is computed. The scope stays.
_NOT_ITS_ANSWER = {"request_id", "key", "weight", "is_batch", "speculation"}

_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """All of a model and its engine that decides what a request's answer is. Hashes are sha256 in hex.

    ``adapter_sha256`` is that of the LoRA adapter that the model is computed with; empty: none.
    """

    gguf_sha256: str
    template_sha256: str
    engine_build: str
    type_k: str
    type_v: str
    adapter_sha256: str = ""
    adapter_scale: float = 1.0


def is_deterministic(params: SamplingParams) -> bool:
    """Whether the same request is meant to have the same answer: nothing is drawn, or by a seed that was given."""
    return params.is_greedy or params.seed is not None


def embedding_key(model: ModelIdentity, scope: str, text: str | tuple[int, ...]) -> bytes:
    """The key of the vector of a text, or of tokens, as :func:`answer_key`."""
    facts = (VERSION, appliance.__version__, model, "embedding", scope, text)
    return hashlib.sha256(_encoder.encode(facts)).digest()


def answer_key(model: ModelIdentity, submit: Submit) -> bytes:
    """The key of a request's answer: 32 bytes from which the request can't be told."""
    canonical = {name: getattr(submit, name) for name in submit.__struct_fields__ if name not in _NOT_ITS_ANSWER}
    # As dictionaries: a Struct that omits defaults omits them by identity, not always if they are given.
    canonical["params"] = msgspec.structs.asdict(submit.params.canonical())
    canonical["stop"] = sorted(set(submit.stop))
    facts = (VERSION, appliance.__version__, model, canonical)
    return hashlib.sha256(_encoder.encode(facts)).digest()
