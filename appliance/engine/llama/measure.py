"""``python -m appliance.engine.llama.measure``: how far a quantized file is from the unquantized one (see ``job``).

Perplexity, Kullback-Leibler divergence and agreement as llama.cpp's ``llama-perplexity --kl-divergence`` defines them,
over one window that begins with the text's first token.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.job import run_job, say_progress
from appliance.engine.llama.model import Model
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.messages import PromptPart
from appliance.errors import ApplianceError, ConfigError

# Two models' logits of so many tokens are in memory: 80 MB each with a vocabulary of 152,000.
_N_BATCH = 128


def _measure(request: dict[str, Any]) -> dict[str, float]:
    text = Path(request["text"]).read_text("utf-8")
    with ExitStack() as stack:
        try:
            base, quantized = (
                stack.enter_context(Model(request[name], n_gpu_layers=request["n_gpu_layers"]))
                for name in ("unquantized", "quantized")
            )
            tokens = base.tokenize((PromptPart(text, is_template=False),))
            n_tokens = min(request["n_tokens"], base.n_ctx_train)
            if len(tokens) < n_tokens:
                raise ConfigError(f"{request['text']} has {len(tokens)} tokens for this model, {n_tokens} are wanted")
            n_threads = request["n_threads"]
            threads = stack.enter_context(ComputeThreads(n_threads, n_threads, poll=0, may_adapt=True))
            contexts = [stack.enter_context(_context(model, n_tokens, threads)) for model in (base, quantized)]
        except ApplianceError as error:
            raise ConfigError(error.message) from None
        return _compare(contexts[0], contexts[1], tokens[:n_tokens])


def _context(model: Model, n_ctx: int, threads: ComputeThreads) -> Context:
    return Context(
        model,
        n_ctx=n_ctx,
        n_batch=_N_BATCH,
        n_seq_max=1,
        n_outputs_max=_N_BATCH,
        threads=threads,
        on_cpu=True,
    )


def _compare(base: Context, quantized: Context, tokens: list[int]) -> dict[str, float]:
    nll_base = nll_quantized = divergence = 0.0
    n_agreed = 0
    # The last token predicts nothing that is known.
    for start in range(0, len(tokens) - 1, _N_BATCH):
        chunk = tokens[start : min(start + _N_BATCH, len(tokens) - 1)]
        p, q = _log_probs(base.evaluate(chunk, start)), _log_probs(quantized.evaluate(chunk, start))
        rows, following = np.arange(len(chunk)), tokens[start + 1 : start + 1 + len(chunk)]
        nll_base -= float(p[rows, following].sum())
        nll_quantized -= float(q[rows, following].sum())
        divergence += float((np.exp(p) * (p - q)).sum())
        n_agreed += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        say_progress(start + len(chunk), len(tokens) - 1)
    n_predicted = len(tokens) - 1
    if not math.isfinite(divergence):
        raise ConfigError("one of the two files gives no finite numbers: it is damaged")
    return {
        "n_tokens": len(tokens),
        "perplexity_unquantized": math.exp(nll_base / n_predicted),
        "perplexity": math.exp(nll_quantized / n_predicted),
        "kl_divergence": divergence / n_predicted,
        "top1_agreement": n_agreed / n_predicted,
    }


def _log_probs(logits: Logits) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-softmax of each row."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


if __name__ == "__main__":
    run_job(_measure)
