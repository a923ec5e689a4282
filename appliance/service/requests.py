"""The requests that wait and run, and those that ended lately."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from appliance.schemas.admin import EndedRequest, RequestList, RequestStatus
from appliance.service.activity import Activity, Ended, Work


def request_list(activity: Activity) -> RequestList:
    """The open ones oldest first, the ended ones newest first."""
    now = asyncio.get_running_loop().time()
    running = activity.running()
    places = queue_places(running)
    return RequestList(
        requests=[_open(work, now, places) for work in running],
        recent=[_ended(ended) for ended in reversed(activity.recent)],
    )


def queue_places(works: Sequence[Work]) -> dict[str, int]:
    """By the ids of those that wait for an engine: 1 is the next one of its model.

    The order is that of ``engine.order`` if all were of the same length, which nobody knows before they have ended:
    interactive ones first, then API keys in turns by their weight, what runs of them counted, then arrival.
    """
    turns: Counter[tuple[str, str]] = Counter()
    places: Counter[str] = Counter()
    order: list[tuple[bool, float, int, Work]] = []
    computed = [one for one in works if one.source is not None and one.source.is_computed_for_it]
    for work in sorted(computed, key=lambda one: (one.state == "waiting", one.submit.is_batch)):
        submit = work.submit
        turns[work.context.model, submit.key] += 1
        if work.state == "waiting":
            turn = turns[work.context.model, submit.key] / submit.weight
            order.append((submit.is_batch, turn, len(order), work))
    found = {}
    for *_, work in sorted(order, key=lambda entry: entry[:3]):
        places[work.context.model] += 1
        found[work.submit.request_id] = places[work.context.model]
    return found


def _open(work: Work, now: float, places: Mapping[str, int]) -> RequestStatus:
    context, submit = work.context, work.submit
    return RequestStatus(
        id=submit.request_id,
        request_id=context.request_id,
        key=context.key,
        model=context.model,
        state=work.state,
        queue_place=places.get(submit.request_id),
        cache=work.source.state if work.source is not None else None,
        prompt_tokens=work.n_prompt,
        prompt_tokens_computed=work.n_prompt if work.state == "decode" else work.n_computed,
        completion_pieces=work.n_pieces,
        tokens_per_s=_tokens_per_s(work, now),
        age_s=now - context.arrived_at,
    )


def _tokens_per_s(work: Work, now: float) -> float | None:
    """Of the answer so far; None before its second piece, and where it isn't computed for this request."""
    source = work.source
    if work.ttft_s is None or work.n_pieces < 2 or source is None or not source.is_computed_for_it:
        return None
    answering_s = now - work.context.arrived_at - work.ttft_s
    return (work.n_pieces - 1) / answering_s if answering_s > 0 else None


def _ended(ended: Ended) -> EndedRequest:
    return EndedRequest(
        id=ended.id,
        request_id=ended.request_id,
        key=ended.key,
        model=ended.model,
        outcome=ended.outcome,
        cache=ended.cache,
        prompt_tokens=ended.n_prompt,
        cached_tokens=ended.n_cached,
        completion_tokens=ended.n_completion,
        queue_s=ended.queue_s,
        ttft_s=ended.ttft_s,
        e2e_s=ended.e2e_s,
        ended_s=ended.ended_s,
    )
