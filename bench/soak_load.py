"""The soak's load: requests of random sizes at random times, some of which are left in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, replace

from bench.client import Endpoint
from bench.errors import NoAnswer
from bench.load import start
from bench.prompts import words

# So many at most are open; bursts fill the server's slots and queue up behind them.
MAX_OPEN = 48
ANSWER_TIMEOUT_S = 240.0
# Mean time between two bursts, and the most requests in one.
_BURST_EVERY_S = 2.0
_MAX_BURST = 12
_N_PREFIXES = 6
# Most are short, and a few long.
_MEAN_PROMPT, _LONGEST_PROMPT = 150, 1500
_MEAN_ANSWER, _LONGEST_ANSWER = 40, 300
_LONGEST_PATIENCE_S = 6.0


@dataclass(frozen=True)
class Request:
    """``patience_s``: when its client leaves, if it does before the end."""

    prompt: str
    max_tokens: int
    patience_s: float | None
    key: str
    is_too_long: bool = False


class Load:
    """Counts what became of every request: ``completed``, ``left``, ``refused`` or ``unanswered``."""

    def __init__(self, endpoint: Endpoint, keys: tuple[str, ...], n_ctx: int, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._endpoint = endpoint
        self._keys = keys
        self._n_ctx = n_ctx
        self._draw = random.Random(seed)
        self._seed = seed
        self._n_made = 0
        self._open: set[asyncio.Task[None]] = set()

    @property
    def n_open(self) -> int:
        return len(self._open)

    @property
    def n_made(self) -> int:
        return self._n_made

    async def run(self, duration_s: float) -> None:
        """Sends requests for so long and waits until every one is answered or has run out of time."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + duration_s
        try:
            while loop.time() < ends_at:
                for _ in range(self._draw.randint(1, _MAX_BURST)):
                    if len(self._open) < MAX_OPEN:
                        self._begin(self._make())
                await asyncio.sleep(min(self._draw.expovariate(1 / _BURST_EVERY_S), ends_at - loop.time()))
            await asyncio.gather(*self._open)
        finally:
            for task in self._open:
                task.cancel()

    def _make(self) -> Request:
        draw = self._draw
        self._n_made += 1
        number = self._n_made
        if draw.random() < 0.02:  # more than fits: must be refused
            prompt = words(2 * self._n_ctx, self._seed, number)
            return Request(prompt, 8, None, draw.choice(self._keys), is_too_long=True)
        prompt = words(_size(draw, _MEAN_PROMPT, _LONGEST_PROMPT), self._seed, number)
        if draw.random() < 0.5:
            prefix = words(draw.randint(50, 400), self._seed, "prefix", draw.randrange(_N_PREFIXES))
            prompt = f"{prefix} {prompt}"
        patience_s = draw.uniform(0, _LONGEST_PATIENCE_S) if draw.random() < 0.25 else None
        return Request(prompt, _size(draw, _MEAN_ANSWER, _LONGEST_ANSWER), patience_s, draw.choice(self._keys))

    def _begin(self, request: Request) -> None:
        task = asyncio.create_task(self._follow(request))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _follow(self, request: Request) -> None:
        endpoint = replace(self._endpoint, key=request.key)
        try:
            exchange = await start(endpoint, request.prompt, max_tokens=request.max_tokens)
            answer = await exchange.finish(request.patience_s or ANSWER_TIMEOUT_S)
        except NoAnswer:
            self._note("left" if request.patience_s is not None else "unanswered", "it took too long")
            return
        except OSError as error:
            self._note("unanswered", str(error))
            return
        if request.is_too_long and answer.status == 400:
            self._note("refused", "")
        elif request.is_too_long:
            self._note("unanswered", f"a prompt that is too long had status {answer.status}")
        elif answer.is_complete and answer.error is None and answer.n_tokens == request.max_tokens:
            self._note("completed", "")
        else:
            found = f"status {answer.status}, ended after {answer.n_tokens} of {request.max_tokens} tokens"
            self._note("unanswered", answer.error or found)

    def _note(self, outcome: str, complaint: str) -> None:
        self.outcomes[outcome] += 1
        if outcome == "unanswered":
            self.complaints.append(complaint)


def _size(draw: random.Random, mean: int, most: int) -> int:
    """At least 1, and at most ``most``."""
    return min(most, 1 + int(draw.expovariate(1 / mean)))
