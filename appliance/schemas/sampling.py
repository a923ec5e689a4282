"""The fields that every completion request has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from appliance.schemas.formats import MAX_GRAMMAR_CHARS, ResponseFormat

MAX_N = 16
MAX_STOP = 16
MAX_STOP_CHARS = 256
# Each is looked for in every token of the vocabulary.
MAX_BREAKERS = 8
MAX_BREAKER_CHARS = 32
# OpenAI's range of a bias; -100 bans a token.
MAX_BIAS = 100.0
MAX_BIASES = 1024


def _is_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_is_unicode)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Breaker = Annotated[Text, Field(min_length=1, max_length=MAX_BREAKER_CHARS)]
GrammarText = Annotated[Text, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]
MaxTokens = Annotated[int | None, Field(ge=1, lt=1 << 31)]
StopString = Annotated[Text, Field(max_length=MAX_STOP_CHARS)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class SamplingFields(BaseModel):
    """OpenAI's sampling fields and llama.cpp's; None is the same as left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    typical_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repeat_penalty: Annotated[float | None, Field(ge=0.01, le=10)] = None
    repeat_last_n: Annotated[int | None, Field(ge=-1, le=1 << 20)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    dry_multiplier: Annotated[float | None, Field(ge=0, le=100)] = None
    dry_base: Annotated[float | None, Field(ge=1, le=100)] = None
    dry_allowed_length: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    dry_penalty_last_n: Annotated[int | None, Field(ge=-1, le=1 << 20)] = None
    dry_sequence_breakers: Annotated[list[Breaker] | None, Field(max_length=MAX_BREAKERS)] = None
    xtc_probability: Annotated[float | None, Field(ge=0, le=1)] = None
    xtc_threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    mirostat: Annotated[int | None, Field(ge=0, le=2)] = None
    mirostat_tau: Annotated[float | None, Field(gt=0, le=100)] = None
    mirostat_eta: Annotated[float | None, Field(gt=0, le=1)] = None
    logit_bias: Annotated[dict[str, Bias] | None, Field(max_length=MAX_BIASES)] = None
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not key.isascii() or not key.isdecimal() or len(key) > 9:
                raise ValueError(f"{key[:40]!r} is not a token id")
        return bias


class GenerationFields(SamplingFields):
    """What chat and text completions ask for alike.

    ``grammar`` is one in Lark, or in GBNF if it holds ``::=``; ``regex`` is for the whole text. ``speculation`` false:
    it isn't guessed how the text goes on.
    """

    model: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP)] | None = None
    max_tokens: MaxTokens = None
    ignore_eos: bool = False
    speculation: bool = True
    response_format: ResponseFormat | None = None
    grammar: GrammarText | None = None
    regex: GrammarText | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> GenerationFields:
        forms = [name for name in ("grammar", "regex") if getattr(self, name) is not None]
        if self.wants_json:
            forms.insert(0, "response_format")
        if len(forms) > 1:
            raise ValueError(f"want one of {' and '.join(forms)}: each says what the whole text must be")
        if forms and self.stop_strings:
            raise ValueError(f"want either stop or {forms[0]}: a stop string could cut off what {forms[0]} promises")
        return self

    @property
    def wants_json(self) -> bool:
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def served_tier(self) -> str | None:
        """How the request is served, in OpenAI's terms: flex waits for all others. None if it didn't ask."""
        if self.service_tier is None:
            return None
        return "flex" if self.service_tier == "flex" else "default"

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
