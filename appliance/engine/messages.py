"""What crosses the socket between the gateway and an engine process, and how it is framed.

Frozen msgspec Structs as msgpack, each frame preceded by its length (4 bytes, big endian). An engine answers
every :class:`Submit` with exactly one terminal event, :class:`Finished` or :class:`Failed`, in every case, and every
:class:`Embed` with :class:`Embedded` or :class:`Failed`; a socket that closes is the terminal event of all that were
open. Events of one step travel in one message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from appliance.engine.kv_messages import WarmTierConfig, WarmTierCounts
from appliance.engine.params import SamplingParams

# Texts that are embedded in one step.
MAX_EMBEDDED = 128
# A frame holds at most one request's prompt or one step's events; more than this is a broken peer.
MAX_FRAME_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class AdapterConfig(msgspec.Struct, frozen=True, array_like=True):
    """A LoRA adapter: ``id`` is what :class:`Submit` calls it by, ``name`` what people do.

    An id is that of these bytes at this scale, also on disk: what is computed with another is never taken for it.
    """

    name: str
    path: str
    sha256: str
    scale: float = 1.0

    @property
    def id(self) -> str:
        return f"{self.name}-{self.sha256}" + (f"x{self.scale:g}" if self.scale != 1.0 else "")


class EngineConfig(msgspec.Struct, frozen=True, tag="config"):
    """What an engine process needs to know to start.

    ``n_ctx`` 0 means min(n_ctx_train, 8192). ``type_k`` and ``type_v`` are ggml's names of the KV cache's types,
    ``tensor_types`` of the types of the model's tensors. ``n_gpu_layers`` -1 means all; ``n_cpu_moe`` of the first
    layers keep their experts' tensors in RAM all the same; ``tensor_split`` has each GPU's part of the layers, empty:
    by free memory. ``longest_token_bytes`` bounds how few tokens a text of some size can be. ``n_threads`` compute
    steps that only decode, ``n_threads_batch`` those with prompts in them; ``poll`` is how long they look for work
    before they sleep.
    ``prompt_step_s`` is how long a step may take that computes prompts while answers stream; ``stream_interval_s`` how
    long text may be held back to travel with what follows it. ``speculation``: guess how answers go on, also with the
    small model of the same vocabulary that ``draft_model_path`` is, if it isn't empty.
    The first of ``n_contexts`` computes the model alone, each of the others one of its ``adapters`` at a time.
    ``pooling``, if not empty: the engine embeds texts instead of going on with them, and makes one vector of a text's
    so (``mean``, ``cls``, ``last``, ``rank``); ``n_ctx`` is then the longest text.
    """

    model_path: str
    tensor_types: tuple[str, ...]
    longest_token_bytes: int
    n_ctx: int
    n_batch: int
    prompt_step_s: float
    stream_interval_s: float
    n_threads: int
    n_threads_batch: int
    poll: int
    n_gpu_layers: int
    max_running: int
    prefix_reuse: bool
    type_k: str = "f16"
    type_v: str = "f16"
    speculation: bool = False
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    warm_tier: WarmTierConfig | None = None
    adapters: tuple[AdapterConfig, ...] = ()
    n_contexts: int = 1
    pooling: str = ""
    draft_model_path: str = ""


class PromptPart(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a prompt. Control tokens are recognised in ``is_template`` text and nowhere else."""

    text: str
    is_template: bool


# --- gateway to engine ---


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Asks for ``n`` continuations of one prompt, given as ``parts`` of text or as ``tokens``.

    ``max_tokens`` None means until the context is full. ``top_logprobs`` None means no log-probabilities. With ``echo``
    each text begins with the prompt's; no stop string is looked for there. ``grammar``, if not empty, is what each text
    must follow (``appliance.engine.grammar``). ``shown_tokens`` are control tokens whose text is part of the answer's,
    where others have none. Without ``speculation`` it isn't guessed how they go on.
    ``adapter`` is the :class:`AdapterConfig` to compute with, by its id; empty: the model alone.
    ``scope`` names who may share computed prefixes; ``key`` whose share of the engine the request counts against, and
    ``weight`` how large that share is beside others'. ``is_batch`` requests wait for all others.
    """

    request_id: str
    parts: tuple[PromptPart, ...] = ()
    tokens: tuple[int, ...] = ()
    params: SamplingParams = SamplingParams()
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    ignore_eos: bool = False
    echo: bool = False
    grammar: str = ""
    shown_tokens: tuple[str, ...] = ()
    adapter: str = ""
    speculation: bool = True
    scope: str = ""
    key: str = ""
    weight: float = 1.0
    is_batch: bool = False


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Asks for a vector of each of ``inputs``, texts or tokens; answered by :class:`Embedded` or :class:`Failed`.

    ``key``, ``weight`` and ``is_batch`` as in :class:`Submit`.
    """

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    key: str = ""
    weight: float = 1.0
    is_batch: bool = False


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Ends a request within one step. Its terminal event still comes."""

    request_id: str


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Asks for the tokens of a prompt; answered by :class:`Tokenized` or :class:`Failed`."""

    request_id: str
    parts: tuple[PromptPart, ...]


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """Asks for the text of tokens, control tokens written out; answered by :class:`Detokenized` or :class:`Failed`."""

    request_id: str
    tokens: tuple[int, ...]


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ends the process; open requests fail first."""


Command = EngineConfig | Submit | Embed | Abort | Tokenize | Detokenize | Stop

# --- engine to gateway ---


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's natural-log probability among the raw logits, with the ``top`` alternatives, best first."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Accepted(msgspec.Struct, frozen=True, tag="accepted", array_like=True):
    """The request is queued; its prompt has ``n_prompt`` tokens."""

    request_id: str
    n_prompt: int


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """``n_computed`` of the prompt's tokens are computed; sent while it takes more than one step."""

    request_id: str
    n_computed: int
    n_prompt: int


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized", array_like=True):
    """Terminal: what was asked for by :class:`Tokenize`."""

    request_id: str
    tokens: tuple[int, ...]


class Detokenized(msgspec.Struct, frozen=True, tag="detokenized", array_like=True):
    """Terminal: what was asked for by :class:`Detokenize`."""

    request_id: str
    text: str


class Piece(msgspec.Struct, frozen=True, tag="piece", array_like=True):
    """Text that sequence ``index`` (of n) of a request went on by, never cut inside a character."""

    request_id: str
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class SequenceFinished(msgspec.Struct, frozen=True, tag="sequence_finished", array_like=True):
    """Sequence ``index`` is complete, of ``n_tokens``; ``finish_reason`` is ``stop`` or ``length``."""

    request_id: str
    index: int
    finish_reason: str
    n_tokens: int


class Finished(msgspec.Struct, frozen=True, tag="finished", array_like=True):
    """Terminal: all sequences of the request are complete, or it was aborted (then none need be).

    ``queue_s`` until the first step that computed for it, ``prefill_s`` from there to its first token, ``decode_s``
    from there to its last one.
    """

    request_id: str
    n_prompt: int
    n_cached: int
    n_completion: int
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Embedded(msgspec.Struct, frozen=True, tag="embedded", array_like=True):
    """Terminal: the vectors of an :class:`Embed`, in its order, each of length one.

    ``vectors`` are little-endian float32, ``n_embd`` of them for each input; ``n_tokens`` has each input's. Aborted, it
    has none. ``queue_s`` until the first step that computed for it, ``compute_s`` from there to the last one's end.
    """

    request_id: str
    vectors: bytes
    n_embd: int
    n_tokens: tuple[int, ...]
    queue_s: float = 0.0
    compute_s: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """Terminal: the request can't be completed. ``code`` is one of ``appliance.errors.ENGINE_ERRORS``."""

    request_id: str
    code: str
    message: str
    param: str | None = None


Event = Accepted | Progress | Piece | SequenceFinished | Finished | Embedded | Failed | Tokenized | Detokenized
Terminal = Finished | Embedded | Failed | Tokenized | Detokenized


class LoadProgress(msgspec.Struct, frozen=True, tag="load_progress"):
    """How far loading is: a part of the weights, from 0 to 1. Sent a few times a second at most."""

    ratio: float


class Buffer(msgspec.Struct, frozen=True, array_like=True):
    """Memory that llama.cpp has allocated or mapped, in its own words.

    ``device`` is the name of the buffer's type, such as CPU_Mapped, CPU_REPACK or CUDA0; ``kind`` is ``weights``,
    ``kv``, ``compute`` or ``output``.
    """

    device: str
    kind: str
    n_bytes: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded. ``device`` says where it computes, in words.

    ``buffers`` is what llama.cpp says of its memory, ``anonymous_bytes`` what the process has in RAM that no file
    backs. ``n_gpu_layers`` were put on GPUs; ``has_gpu`` says whether llama.cpp found one.
    """

    n_ctx: int
    n_seq_max: int
    build: str
    device: str
    buffers: tuple[Buffer, ...] = ()
    anonymous_bytes: int = 0
    n_gpu_layers: int = 0
    has_gpu: bool = False


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """``is_out_of_memory``: the same model may fit with fewer layers on the GPU, or a smaller context."""

    message: str
    is_out_of_memory: bool = False


class Load(msgspec.Struct, frozen=True, array_like=True):
    """How full the engine is, and what it has done since it was loaded.

    ``n_running`` and ``n_waiting`` sequences, ``n_cells_used`` cells of the KV cache's ``n_cells``; ``n_retained``
    slots that are kept for later prompts. ``n_prompt_computed`` and ``n_prompt_reused`` prompt tokens, ``n_sampled``
    tokens of answers, in ``n_steps`` that took ``compute_s`` together; ``n_draft_accepted`` of ``n_drafted`` guessed
    tokens were right. ``n_preempted`` times a sequence made way for
    others, ``n_evicted`` times a retained slot did. ``longest_step_s`` is how long one step has taken at most.
    ``warm_tier`` None: nothing is kept on disk.
    """

    n_running: int = 0
    n_waiting: int = 0
    n_cells_used: int = 0
    n_cells: int = 1
    n_retained: int = 0
    n_steps: int = 0
    n_prompt_computed: int = 0
    n_prompt_reused: int = 0
    n_sampled: int = 0
    n_drafted: int = 0
    n_draft_accepted: int = 0
    n_preempted: int = 0
    n_evicted: int = 0
    compute_s: float = 0.0
    longest_step_s: float = 0.0
    warm_tier: WarmTierCounts | None = None


class Events(msgspec.Struct, frozen=True, tag="events"):
    """What happened in one step, in order, and the engine's load after it."""

    events: tuple[Event, ...]
    load: Load


Report = LoadProgress | Ready | LoadFailed | Events

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Command | Report) -> bytes:
    """The message as one frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[T]):
    """Takes bytes as they come and gives whole messages."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages completed by ``data``.

        Raises:
            ValueError: the peer sent what is no frame; the connection can't be used further.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {size} bytes; at most {MAX_FRAME_BYTES} are allowed")
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._decoder.decode(body)
