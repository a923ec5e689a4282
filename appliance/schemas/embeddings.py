"""The wire types of ``POST /v1/embeddings``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from appliance.schemas.completions import Tokens
from appliance.schemas.sampling import Text

# OpenAI's limit.
MAX_INPUTS = 2048


def _has_text(text: str) -> str:
    if not text:
        raise ValueError("is an empty text, which has no vector; leave it out")
    return text


Input = Annotated[Text, AfterValidator(_has_text)]


class EmbeddingsRequest(BaseModel):
    """``dimensions`` other than the model's own are refused."""

    model_config = ConfigDict(strict=True)

    input: (
        Input
        | Tokens
        | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: Text | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, lt=1 << 31)] = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None

    @property
    def inputs(self) -> list[str | tuple[int, ...]]:
        """Each text as it is, or its tokens."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [tuple(self.input)]
        return [one if isinstance(one, str) else tuple(one) for one in self.input]
