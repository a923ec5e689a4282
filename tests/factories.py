"""One builder for each noun that tests need, with defaults for all that a test is not about."""

from __future__ import annotations

import itertools

from appliance.engine.messages import PromptPart, Submit
from appliance.engine.params import SamplingParams
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence

_numbers = itertools.count()


def sequence(
    *,
    prompt: int | list[int] = 4,
    request_id: str | None = None,
    index: int = 0,
    scope: str = "",
    key: str = "",
    weight: float = 1.0,
    is_batch: bool = False,
    exact: bool = False,
) -> Sequence:
    """A sequence with ``prompt`` tokens of its own, or with these tokens."""
    number = next(_numbers)
    tokens = list(prompt) if isinstance(prompt, list) else [1000 * (number + 1) + i for i in range(prompt)]
    return Sequence(
        request_id=request_id or f"r{number}",
        index=index,
        tokens=tokens,
        n_prompt=len(tokens),
        scope=scope,
        key=key,
        weight=weight,
        is_batch=is_batch,
        exact=exact,
    )


def scheduler(
    *,
    n_ctx: int = 1000,
    n_batch: int = 64,
    n_seq_max: int = 8,
    max_running: int = 4,
    exact_batch: int | None = None,
    exact_reuse: bool = True,
    prefix_reuse: bool = True,
    can_cut_prefix: bool = True,
    n_outputs: int = 0,
) -> Scheduler:
    return Scheduler(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_seq_max=n_seq_max,
        max_running=max_running,
        exact_batch=exact_batch,
        exact_reuse=exact_reuse,
        prefix_reuse=prefix_reuse,
        can_cut_prefix=can_cut_prefix,
        n_outputs=n_outputs,
    )


def submit(
    text: str = "hello",
    *,
    request_id: str | None = None,
    params: SamplingParams | None = None,
    n: int = 1,
    max_tokens: int | None = 4,
    stop: tuple[str, ...] = (),
    top_logprobs: int | None = None,
    ignore_eos: bool = False,
    grammar: str = "",
    adapter: str = "",
    scope: str = "",
    speculation: bool = True,
) -> Submit:
    return Submit(
        request_id=request_id or f"r{next(_numbers)}",
        parts=(PromptPart(text, True),),
        params=params or SamplingParams(temperature=0),
        n=n,
        max_tokens=max_tokens,
        stop=stop,
        top_logprobs=top_logprobs,
        ignore_eos=ignore_eos,
        grammar=grammar,
        adapter=adapter,
        scope=scope,
        speculation=speculation,
    )
