"""The model: weights and vocabulary."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

from appliance.engine.backend import LoadCancelled, OnProgress
from appliance.engine.llama.library import ggml, lib
from appliance.engine.llama.load_log import LoadLog
from appliance.engine.llama.read_ahead import read_ahead
from appliance.engine.messages import EngineConfig, PromptPart
from appliance.errors import EngineFailed

# Before text that goes on behind other text: SentencePiece vocabularies put a space before each text they are
# given, and none merges anything across a line's end.
_ANCHOR = "\n"
# The tensors of a layer's experts (LLM_FFN_EXPS_REGEX in common/common.h).
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


class _BufferOverride(ctypes.Structure):
    """``struct llama_model_tensor_buft_override`` of llama.h; the binding's has other types."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


class Model:
    """Owns a ``llama_model``; use with ``with``."""

    def __init__(
        self,
        path: str,
        *,
        n_gpu_layers: int = 0,
        n_cpu_moe: int = 0,
        tensor_split: tuple[float, ...] = (),
        vocab_only: bool = False,
        on_progress: OnProgress = lambda ratio: True,
    ) -> None:
        """``n_gpu_layers``, ``n_cpu_moe`` and ``tensor_split`` as in :class:`EngineConfig`.

        Raises:
            EngineFailed: the file can't be loaded.
            EngineOutOfMemory: there is no memory for it.
            LoadCancelled: ``on_progress`` says so.
        """
        is_cancelled = False

        @lib.llama_progress_callback  # type: ignore[untyped-decorator]
        def progress(ratio: float, user_data: object) -> bool:
            nonlocal is_cancelled
            is_cancelled = not on_progress(ratio)
            return not is_cancelled

        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        # Both are kept until llama.cpp has returned.
        overrides = _experts_on_cpu(n_cpu_moe) if n_cpu_moe else None
        parts = _tensor_split(tensor_split) if tensor_split else None
        if overrides is not None:
            params.tensor_buft_overrides = ctypes.addressof(overrides)
        if parts is not None:
            params.tensor_split = parts
        params.vocab_only = vocab_only
        params.progress_callback = progress
        with LoadLog() as log:
            self.handle: Any = lib.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            if is_cancelled:
                raise LoadCancelled
            raise log.error(f"llama.cpp can't load {path}")
        self.buffers = log.buffers
        self.n_gpu_layers = log.n_gpu_layers
        self.vocab: Any = lib.llama_model_get_vocab(self.handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self.handle)
        self._bos: int = lib.llama_vocab_bos(self.vocab)
        self._adds_bos: bool = lib.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._names: dict[int, bytes] = {}
        self._anchor = self._tokenize(_ANCHOR, is_template=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lib.llama_model_free(self.handle)

    @property
    def is_recurrent(self) -> bool:
        """Whether it has no attention at all: a sequence's memory is one state."""
        return bool(lib.llama_model_is_recurrent(self.handle))

    @property
    def can_cut_memory(self) -> bool:
        """Whether the KV cache can be cut at any position.

        Recurrent states can't. With sliding-window attention, llama.cpp overwrites cells that a sequence's own later
        tokens don't see any more, but one that begins with its prefix would.
        """
        if lib.llama_model_n_swa(self.handle) > 0:
            return False
        return not (self.is_recurrent or lib.llama_model_is_hybrid(self.handle))

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        """The tokens of the parts as one text; control tokens are recognised in template parts only."""
        tokens: list[int] = []
        for part in parts:
            if not part.text:
                continue
            goes_on = bool(tokens) and not lib.llama_vocab_is_control(self.vocab, tokens[-1])
            tokens += self._tokenize_behind(part) if goes_on else self._tokenize(part.text, part.is_template)
        if self._adds_bos and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    def tokenize_whole(self, text: str) -> list[int]:
        """The text's tokens with those that the vocabulary wants around it; no text becomes a control token."""
        return self._tokenize(text, is_template=False, is_whole=True)

    def token_bytes(self, token: int) -> bytes:
        """The token's text; control tokens have none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._token_bytes(token, is_special_shown=False)
        return piece

    def token_name(self, token: int) -> bytes:
        """As :meth:`token_bytes`, but control tokens are written out."""
        name = self._names.get(token)
        if name is None:
            name = self._names[token] = self._token_bytes(token, is_special_shown=True)
        return name

    def is_eog(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def _tokenize_behind(self, part: PromptPart) -> list[int]:
        tokens = self._tokenize(_ANCHOR + part.text, part.is_template)
        n_anchor = len(self._anchor)
        if tokens[:n_anchor] == self._anchor:
            return tokens[n_anchor:]
        # This vocabulary does merge across a line's end. Those that do (byte-level BPE) add no space.
        return self._tokenize(part.text, part.is_template)

    def _tokenize(self, text: str, is_template: bool, *, is_whole: bool = False) -> list[int]:
        data = text.encode("utf-8", "replace")
        # Never more tokens than bytes, but for a space put before and tokens that mark a beginning and an end.
        room = len(data) + 4
        tokens = (lib.llama_token * room)()
        n_tokens = lib.llama_tokenize(self.vocab, data, len(data), tokens, room, is_whole, is_template)
        if n_tokens < 0:
            raise EngineFailed(f"llama_tokenize wants room for {-n_tokens} tokens, more than {room}")
        return list(tokens[:n_tokens])

    def _token_bytes(self, token: int, *, is_special_shown: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n_bytes = lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, is_special_shown)
            if n_bytes >= 0:
                return buffer.raw[:n_bytes]
            size = -n_bytes


def load_model(config: EngineConfig, on_progress: OnProgress) -> Model:
    """The model of an engine, its file read beforehand. Raises as :class:`Model` does."""
    # To read the file counts as half of it; the rest is llama.cpp's.
    base = 0.5 if read_ahead(config.model_path, lambda ratio: on_progress(ratio / 2)) else 0.0
    return Model(
        config.model_path,
        n_gpu_layers=config.n_gpu_layers,
        n_cpu_moe=config.n_cpu_moe,
        tensor_split=config.tensor_split,
        on_progress=lambda ratio: on_progress(base + ratio * (1 - base)),
    )


def _experts_on_cpu(n_layers: int) -> Any:
    """Puts the experts of the first layers into RAM: a list that ends with an entry without a pattern."""
    ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    # One pattern for all: llama.cpp compiles each anew for each tensor.
    pattern = rf"^blk\.({'|'.join(map(str, range(n_layers)))}){_EXPERTS}"
    overrides = (_BufferOverride * 2)()
    overrides[0] = _BufferOverride(pattern.encode(), ggml.ggml_backend_cpu_buffer_type())
    return overrides


def _tensor_split(parts: tuple[float, ...]) -> Any:
    """As long as llama.cpp reads it. Raises EngineFailed if there are more parts than devices can be."""
    n_max = lib.llama_max_devices()
    if len(parts) > n_max:
        raise EngineFailed(f"tensor_split={list(parts)} has {len(parts)} parts; llama.cpp takes {n_max} at most")
    return (ctypes.c_float * n_max)(*parts)
