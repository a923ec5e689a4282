"""How an answer is drawn: the fields of the drawer, checked by the server's own rules."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ValidationError

from appliance.schemas.sampling import GenerationFields


@dataclass(frozen=True, slots=True)
class Knob:
    """A field of the request. ``example`` is something that could be typed."""

    name: str
    is_whole: bool
    example: str
    help: str


KNOBS = (
    Knob("temperature", False, "0.7", "0: always the likeliest token; above 1: wild."),
    Knob("top_p", False, "0.9", "Only the likeliest tokens that have this probability together."),
    Knob("top_k", True, "40", "Only so many of the likeliest tokens; 0: all."),
    Knob("min_p", False, "0.05", "Only tokens at least this likely beside the likeliest."),
    Knob("max_tokens", True, "512", "The answer ends after so many tokens."),
    Knob("seed", True, "42", "The same seed gives the same answer."),
)


def checked(knob: Knob, typed: str) -> int | float | None:
    """What was typed as a number; None if nothing was: the field isn't sent then.

    Raises:
        ValueError: it can't be sent; its text is a sentence for people.
    """
    typed = typed.strip()
    if not typed:
        return None
    try:
        value = int(typed) if knob.is_whole else float(typed)
        if not math.isfinite(value):
            raise ValueError(typed)
    except ValueError:
        kind = "a whole number" if knob.is_whole else "a number"
        raise ValueError(f"Want {kind}, such as {knob.example}.") from None
    try:
        GenerationFields.model_validate({knob.name: value})
    except ValidationError as error:
        wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise ValueError(f"Want a number {wanted}.") from None
    return value
