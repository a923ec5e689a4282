"""What a request may ask of sampling, in llama.cpp's and OpenAI's terms."""

from __future__ import annotations

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """The knobs of llama.cpp's sampler chain. The defaults are OpenAI's: temperature 1 and nothing cut off.

    ``temperature`` 0 is greedy: the most likely token after penalties and bias. ``seed`` None draws a fresh
    one. A value that turns its sampler off: ``top_k`` 0, ``top_p`` 1, ``min_p`` 0, ``typical_p`` 1,
    ``repeat_penalty`` 1, ``presence_penalty`` and ``frequency_penalty`` 0, ``dry_multiplier`` 0,
    ``xtc_probability`` 0, ``mirostat`` 0.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] = {}
    seed: int | None = None

    @property
    def has_penalties(self) -> bool:
        """Whether tokens already in the context change the next one's logits."""
        return self._penalizes_tokens or self.dry_multiplier != 0.0

    @property
    def _penalizes_tokens(self) -> bool:
        return self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn. Logits divided by less than this overflow, and there is one candidate anyway."""
        return self.temperature < 1e-4

    def canonical(self) -> SamplingParams:
        """The same sampling with all that has no effect on it at its default.

        A seed stays given where nothing is drawn: such requests are computed in batches of their own.
        """
        idle: set[str] = set()
        if self.is_greedy:
            idle |= _CUTTING | _MIROSTAT
        elif self.mirostat:
            idle |= _CUTTING | _DRY
        else:
            idle |= _MIROSTAT
        if not self._penalizes_tokens:
            idle.add("repeat_last_n")
        if self.dry_multiplier == 0.0:
            idle |= _DRY
        if self.xtc_probability == 0.0:
            idle.add("xtc_threshold")
        kept = {name: getattr(self, name) for name in self.__struct_fields__ if name not in idle}
        kept["logit_bias"] = dict(sorted(self.logit_bias.items()))
        if self.is_greedy:
            kept["temperature"] = 0.0
            kept["seed"] = None if self.seed is None else 0
        return SamplingParams(**kept)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the plain argmax of the logits."""
        return self.is_greedy and not self.has_penalties and not self.logit_bias


# Cuts candidates off before one is drawn. Mirostat draws from all; greedy sampling takes the most likely one, which all
# but xtc keep, and it leaves xtc out.
_CUTTING = {"top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold"}
# Left out with mirostat.
_DRY = {"dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"}
_MIROSTAT = {"mirostat", "mirostat_tau", "mirostat_eta"}
