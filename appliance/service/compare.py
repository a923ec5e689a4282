"""The same questions to several models, one after another, each alone on the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.schemas.chat import ChatRequest
from appliance.service.activity import Activity
from appliance.service.answers import Answers
from appliance.service.catalog import ServedModel
from appliance.service.context import RequestContext
from appliance.service.inference import Inference
from appliance.service.metrics import Metrics
from appliance.supervisor.budget import Budget
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import Spawn
from appliance.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model said to one question, and what that took."""

    text: str
    finish_reason: str | None
    seconds: float
    ttft_s: float | None
    n_prompt: int
    n_completion: int


class _OneModel:
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def resolve(self, reference: str | None) -> ServedModel:
        return self._model


async def ask_in_turn(
    spawn: Spawn,
    budget: Budget,
    planner: Planner,
    model: ServedModel,
    requests: Sequence[ChatRequest],
    on_answer: Callable[[int], None],
) -> list[Outcome]:
    """Loads a model and asks it; ``on_answer`` is called with 1 after each. Raises ApplianceError."""
    supervisor = Supervisor(spawn, budget, planner)
    metrics = Metrics(supervisor.loads)
    inference = Inference(supervisor, _OneModel(model), Activity(metrics), Answers(supervisor, None, metrics))
    clock = asyncio.get_running_loop().time
    outcomes = []
    try:
        await supervisor.load(model.spec)
        for number, request in enumerate(requests):
            context = RequestContext(f"compare-{number}", arrived_at=clock())
            (answer,) = await inference.chat(request, context).answers()
            (choice,) = answer.choices
            seconds = clock() - context.arrived_at
            outcomes.append(
                Outcome(
                    "".join(choice.text),
                    choice.finish_reason,
                    seconds,
                    context.ttft_s,
                    answer.usage.n_prompt,
                    answer.usage.n_completion,
                )
            )
            on_answer(1)
    finally:
        await supervisor.stop()
    return outcomes
