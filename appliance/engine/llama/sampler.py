"""How the next token is chosen from the logits: llama.cpp's sampler chain."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import secrets
from typing import Any

import numpy as np

from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.library import lib
from appliance.engine.llama.model import Model
from appliance.engine.messages import TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.errors import EngineFailed, InvalidRequest

_BLOCK = 64
_MIROSTAT_M = 100  # the paper's m, as llama.cpp's own programs set it


class Sampler:
    """Owns a sampler chain of one sequence; :meth:`close` frees it.

    The chain is made when its first token is sampled: a sequence that waits costs nothing.
    """

    def __init__(self, model: Model, params: SamplingParams, prompt: list[int], *, index: int, n_ctx: int) -> None:
        """Raises InvalidRequest if a parameter doesn't suit the model's vocabulary."""
        _check_bias(params, model.n_vocab)
        self._model = model
        self._params = params
        self._prompt = prompt
        self._index = index
        self._n_ctx = n_ctx
        self._chain: Any = None

    @property
    def is_plain_greedy(self) -> bool:
        return self._params.is_plain_greedy

    def accept(self, token: int) -> None:
        """Remembers a token that it didn't choose."""
        if self._chain:
            lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    def sample(self, context: Context, output: int, best: int) -> int:
        """Chooses a token and remembers it for the penalties; ``best`` has the greatest logit.

        Raises EngineFailed if the chain can't be made.
        """
        if self._params.is_plain_greedy:
            return best
        if self._chain is None:
            self._build()
        return int(lib.llama_sampler_sample(self._chain, context.handle, output))

    def _add(self, sampler: Any, name: str) -> None:
        if not sampler:  # a NULL pointer object, not None
            raise EngineFailed(f"llama.cpp refused to make its {name} sampler")
        lib.llama_sampler_chain_add(self._chain, sampler)

    def _build(self) -> None:
        """Adds the samplers in the order of llama.cpp's ``common_sampler_init``."""
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._add_all(self._model, self._params)
        if self._params.has_penalties:
            for token in self._prompt:
                lib.llama_sampler_accept(self._chain, token)

    def _add_all(self, model: Model, params: SamplingParams) -> None:
        add = self._add
        if params.logit_bias:
            biases = (lib.llama_logit_bias * len(params.logit_bias))()
            for entry, (token, bias) in zip(biases, params.logit_bias.items(), strict=True):
                entry.token, entry.bias = token, bias
            add(lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), biases), "logit_bias")
        if params.has_penalties:
            add(
                lib.llama_sampler_init_penalties(
                    model.n_vocab,
                    self._last_n(params.repeat_last_n),
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                ),
                "penalties",
            )
        if params.is_greedy:
            self._add_dry(model, params)
            add(lib.llama_sampler_init_greedy(), "greedy")
            return
        seed = _chain_seed(params.seed, self._index)
        if params.mirostat:
            add(lib.llama_sampler_init_temp(params.temperature), "temp")
            tau, eta = params.mirostat_tau, params.mirostat_eta
            if params.mirostat == 1:
                add(lib.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, _MIROSTAT_M), "mirostat")
            else:
                add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta), "mirostat_v2")
            return
        self._add_dry(model, params)
        if params.top_k > 0:
            add(lib.llama_sampler_init_top_k(params.top_k), "top_k")
        if params.typical_p < 1.0:
            add(lib.llama_sampler_init_typical(params.typical_p, 1), "typical")
        if params.top_p < 1.0:
            add(lib.llama_sampler_init_top_p(params.top_p, 1), "top_p")
        if params.min_p > 0.0:
            add(lib.llama_sampler_init_min_p(params.min_p, 1), "min_p")
        if params.xtc_probability > 0.0:
            add(lib.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 1, seed), "xtc")
        add(lib.llama_sampler_init_temp(params.temperature), "temp")
        add(lib.llama_sampler_init_dist(seed), "dist")

    def _last_n(self, n_tokens: int) -> int:
        """How many tokens a sampler looks back; it allocates as much, so never more than there can be."""
        return self._n_ctx if n_tokens < 0 else min(n_tokens, self._n_ctx)

    def _add_dry(self, model: Model, params: SamplingParams) -> None:
        if params.dry_multiplier == 0.0:
            return
        prototype = _dry_prototype(
            model,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            self._last_n(params.dry_penalty_last_n),
            params.dry_sequence_breakers,
        )
        self._add(lib.llama_sampler_clone(prototype), "dry")


@functools.lru_cache(maxsize=8)
def _dry_prototype(
    model: Model, multiplier: float, base: float, allowed_length: int, last_n: int, breakers: tuple[str, ...]
) -> Any:
    """A sampler to clone: to make one, llama.cpp searches the whole vocabulary for each breaker.

    The few that are kept live as long as the process.
    """
    encoded = [text.encode() for text in breakers]
    texts = (ctypes.c_char_p * len(encoded))(*encoded)
    return lib.llama_sampler_init_dry(model.vocab, multiplier, base, allowed_length, last_n, texts, len(encoded))


def token_logprob(model: Model, logits: Logits, token: int, n_top: int) -> TokenLogprob:
    """The token's log-probability among the raw logits, before penalties, temperature and bias."""
    greatest = logits.max()
    log_total = float(greatest) + float(np.log(np.exp(logits - greatest).sum(dtype=np.float64)))
    top = tuple((model.token_name(int(i)), float(logits[i]) - log_total) for i in best_tokens(logits, n_top))
    return TokenLogprob(model.token_name(token), float(logits[token]) - log_total, top)


def best_tokens(logits: Logits, n_top: int) -> list[int]:
    """The ``n_top`` tokens with the greatest logits, best first; of equal ones the lower number comes first."""
    if n_top == 0:
        return []
    # Ranking the maxima of blocks bounds what can be among the best: much faster than ranking the vocabulary.
    n_blocks = len(logits) // _BLOCK
    threshold = -np.inf
    if n_blocks >= n_top:
        maxima = logits[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
        threshold = np.partition(maxima, -n_top)[-n_top]
    candidates = np.flatnonzero(logits >= threshold)
    ranked = candidates[np.argsort(-logits[candidates], kind="stable")]
    return [int(token) for token in ranked[:n_top]]


def _check_bias(params: SamplingParams, n_vocab: int) -> None:
    for token in params.logit_bias:
        if not 0 <= token < n_vocab:
            raise InvalidRequest(
                f"logit_bias: token {token} is not in the vocabulary (0 to {n_vocab - 1})", param="logit_bias"
            )


def _chain_seed(seed: int | None, index: int) -> int:
    """A 32-bit seed for answer ``index``; never 0xFFFFFFFF, which llama.cpp takes to mean a random one.

    The first answer's is the request's own; the others' have nothing to do with those of neighbouring seeds.
    """
    if seed is None:
        return secrets.randbits(32) % 0xFFFFFFFF
    if index == 0:
        return seed % 0xFFFFFFFF
    digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
    return int.from_bytes(digest[:4]) % 0xFFFFFFFF
