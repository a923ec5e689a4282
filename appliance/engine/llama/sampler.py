"""How the next token is chosen from the logits: llama.cpp's sampler chain."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

import numpy as np

from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.library import lib
from appliance.engine.llama.model import Model
from appliance.engine.messages import TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.errors import EngineFailed, InvalidRequest

_MIROSTAT_M = 100  # the paper's m, as llama.cpp's own programs set it


class Sampler:
    """Owns a sampler chain of one sequence; :meth:`close` frees it."""

    def __init__(self, model: Model, params: SamplingParams, prompt: list[int], *, seed_offset: int) -> None:
        """Raises InvalidRequest if a parameter doesn't suit the model's vocabulary."""
        self._is_plain_greedy = params.is_plain_greedy
        self._chain: Any = None
        _check_bias(params, model.n_vocab)
        if self._is_plain_greedy:
            return
        chain_params = lib.llama_sampler_chain_default_params()
        self._chain = lib.llama_sampler_chain_init(chain_params)
        try:
            self._build(model, params, seed_offset)
        except Exception:
            self.close()
            raise
        if params.has_penalties:
            for token in prompt:
                lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    def sample(self, context: Context, output: int, logits: Logits) -> int:
        """Chooses a token and remembers it for the penalties."""
        if self._is_plain_greedy:
            return int(logits.argmax())
        return int(lib.llama_sampler_sample(self._chain, context.handle, output))

    def _add(self, sampler: Any, name: str) -> None:
        if not sampler:  # a NULL pointer object, not None
            raise EngineFailed(f"llama.cpp refused to make its {name} sampler")
        lib.llama_sampler_chain_add(self._chain, sampler)

    def _build(self, model: Model, params: SamplingParams, seed_offset: int) -> None:
        """Adds the samplers in the order of llama.cpp's ``common_sampler_init``."""
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
                    params.repeat_last_n if params.repeat_last_n >= 0 else model.n_ctx_train,
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                ),
                "penalties",
            )
        if params.temperature == 0.0:
            self._add_dry(model, params)
            add(lib.llama_sampler_init_greedy(), "greedy")
            return
        seed = _chain_seed(params.seed, seed_offset)
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

    def _add_dry(self, model: Model, params: SamplingParams) -> None:
        if params.dry_multiplier == 0.0:
            return
        breakers = [text.encode() for text in params.dry_sequence_breakers]
        last_n = params.dry_penalty_last_n if params.dry_penalty_last_n >= 0 else model.n_ctx_train
        self._add(
            lib.llama_sampler_init_dry(
                model.vocab,
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                last_n,
                (ctypes.c_char_p * len(breakers))(*breakers),
                len(breakers),
            ),
            "dry",
        )


def token_logprob(model: Model, logits: Logits, token: int, n_top: int) -> TokenLogprob:
    """The token's log-probability among the raw logits, before penalties, temperature and bias."""
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    top: tuple[tuple[bytes, float], ...] = ()
    if n_top:
        best = np.argpartition(logprobs, -n_top)[-n_top:]
        best = best[np.argsort(-logprobs[best], kind="stable")]
        top = tuple((model.token_name(int(i)), float(logprobs[i])) for i in best)
    return TokenLogprob(model.token_name(token), float(logprobs[token]), top)


def _check_bias(params: SamplingParams, n_vocab: int) -> None:
    for token in params.logit_bias:
        if not 0 <= token < n_vocab:
            raise InvalidRequest(
                f"logit_bias: token {token} is not in the vocabulary (0 to {n_vocab - 1})", param="logit_bias"
            )


def _chain_seed(seed: int | None, offset: int) -> int:
    """A 32-bit seed; never 0xFFFFFFFF, which llama.cpp takes to mean a random one."""
    return (secrets.randbits(32) if seed is None else seed + offset) % 0xFFFFFFFF
