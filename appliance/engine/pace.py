"""How many prompt tokens a step may have, and what a decoded one costs, from how long steps have taken.

A step can't be interrupted: a long one delays every answer that streams beside it, and the next request. Short ones
compute prompts less efficiently. So a chunk is as long as can be computed in a given time.
"""

from __future__ import annotations

from appliance.engine.step import StepLimits

# Where nothing streams, a step bounds how soon a new request is seen and an abort works.
ALONE_STEP_S = 1.0
# Never less: from here on llama.cpp's CPU attention works in tiles (GGML_FA_TILE_Q), and with many tokens before it a
# shorter chunk takes longer than this one. Also the guess before anything was measured.
MIN_CHUNK = 64
_SMOOTHING = 0.3
# How much of the past steps' weight is left after each.
_FORGETTING = 0.98
# Of a decoded token, before steps of several sizes were seen: a processor's, for which it is a large part.
_PRIOR_TOKEN_COST = 1.0


class Rate:
    """Seconds a token, smoothed over the latest steps."""

    def __init__(self) -> None:
        self.s_per_token: float | None = None

    def observe(self, n_tokens: int, step_s: float) -> None:
        measured = step_s / n_tokens
        before = measured if self.s_per_token is None else self.s_per_token
        self.s_per_token = before + _SMOOTHING * (measured - before)

    def fade(self, part: float) -> None:
        """Believes so much less of what was measured: it may take less by now."""
        if self.s_per_token is not None:
            self.s_per_token *= 1.0 - part

    def chunk(self, step_s: float, n_batch: int) -> int:
        """The longest chunk that is computed within ``step_s``."""
        if self.s_per_token is None:
            return min(MIN_CHUNK, n_batch)
        n_tokens = int(step_s / max(self.s_per_token, 1e-9))
        return max(min(MIN_CHUNK, n_batch), min(n_tokens, n_batch))


class DecodeCost:
    """What a step costs that only decodes, as a straight line over its tokens, fitted to the latest ones."""

    def __init__(self) -> None:
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def observe(self, n_tokens: int, step_s: float) -> None:
        """A step that decoded ``n_tokens`` took ``step_s``."""
        keep = _FORGETTING
        self._weight = keep * self._weight + 1.0
        self._n = keep * self._n + n_tokens
        self._s = keep * self._s + step_s
        self._nn = keep * self._nn + n_tokens * n_tokens
        self._ns = keep * self._ns + n_tokens * step_s

    @property
    def token_cost(self) -> float:
        """What one more token adds to a step, in parts of what a step costs besides its tokens."""
        if not self._weight:
            return _PRIOR_TOKEN_COST
        base_s, token_s = self._line
        return ratio(token_s, base_s)

    @property
    def base_s(self) -> float:
        """What a step costs besides its tokens; 0 before any was seen."""
        return self._line[0]

    @property
    def _line(self) -> tuple[float, float]:
        """Seconds of a step without tokens, and of each token."""
        if not self._weight:
            return 0.0, 0.0
        n, s = self._n / self._weight, self._s / self._weight
        spread = self._weight * self._nn - self._n * self._n
        if spread > 1e-3 * self._weight * self._nn:
            token_s = (self._weight * self._ns - self._n * self._s) / spread
        else:  # all of one size
            token_s = s / (n + 1 / _PRIOR_TOKEN_COST)
        token_s = max(token_s, 0.0)
        return max(s - n * token_s, 0.0), token_s


def ratio(cost: float, of: float) -> float:
    """``cost`` in parts of another one, neither being negative; nothing is no part of anything."""
    if cost == 0.0:
        return 0.0
    return cost / of if of > 0.0 else float("inf")


class Pace:
    """Keeps the limits of steps. What a step cost besides its prompts is counted in, so limits settle where it fits."""

    def __init__(self, *, n_batch: int, step_s: float) -> None:
        """``step_s``: how long a step with prompts in it may take while answers stream."""
        self._n_batch = n_batch
        self._step_s = step_s
        self._beside_decode = Rate()
        self._alone = Rate()
        self._decode = DecodeCost()

    @property
    def prompt_token_s(self) -> float | None:
        """How long a prompt's token takes where nothing streams; None: that isn't known yet."""
        return self._alone.s_per_token

    def observe(self, *, n_prompt: int, n_decoding: int, step_s: float) -> None:
        """A step with ``n_prompt`` tokens of prompts, and as many decoded ones, took ``step_s``."""
        if n_prompt == 0:
            self._decode.observe(n_decoding, step_s)
        if n_prompt >= min(MIN_CHUNK, self._n_batch):  # else all but nothing of it went into the prompt
            (self._beside_decode if n_decoding else self._alone).observe(n_prompt, step_s)

    def limits(self, n_lanes: int = 1) -> StepLimits:
        """The limits of one of ``n_lanes`` whose steps take turns: what streams in one waits for all others' steps."""
        beside_s = self._step_s / n_lanes
        return StepLimits(
            beside_decode=self._beside_decode.chunk(beside_s, self._n_batch),
            alone=self._alone.chunk(ALONE_STEP_S if n_lanes == 1 else beside_s, self._n_batch),
            token_cost=self._decode.token_cost,
            base_s=self._decode.base_s,
        )
