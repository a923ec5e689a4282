"""Each of the schemas is kept to the letter by whatever may be written, or refused by name; no model is needed."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from jsonschema import validators

from appliance.chat.formats import Verdicts, schema_form, violation
from appliance.errors import InvalidRequest
from tests.structured.schemas import ENDLESS, KEPT, REFUSED
from tests.structured.walk import walk

N_WALKS = 25


def _pattern(validator: Any, pattern: str, text: Any, schema: Any) -> Any:
    """As JavaScript reads it: a digit is one of ten."""
    if isinstance(text, str) and not re.search(pattern, text, re.ASCII):
        yield jsonschema.ValidationError(f"{text!r} does not match {pattern!r}")


def _multiple(validator: Any, divisor: float, value: Any, schema: Any) -> Any:
    """In decimals, not in doubles."""
    if isinstance(value, int | float) and Decimal(str(value)) % Decimal(str(divisor)):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {divisor}")


def independent(schema: dict[str, Any]) -> Any:
    """A validator that knows nothing of the appliance's, and looks at patterns and formats too."""
    kind = validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    own = validators.extend(kind, {"pattern": _pattern, "multipleOf": _multiple})  # type: ignore[no-untyped-call]
    return own(schema, format_checker=kind.FORMAT_CHECKER)


def test_there_are_a_hundred_and_twenty() -> None:
    assert len(KEPT) + len(REFUSED) >= 120


@pytest.mark.parametrize("name", [*KEPT, *ENDLESS])
def test_whatever_may_be_written_is_as_the_schema_wants_it(name: str) -> None:
    schema = (KEPT | ENDLESS)[name]
    form = schema_form(schema, "response_format")
    Verdicts().check([form])
    validator = independent(schema)
    texts = [text for seed in range(N_WALKS) if (text := walk(form.grammar, seed)) is not None]
    assert len(texts) > N_WALKS / 3
    for text in texts:
        validator.validate(json.loads(text))
        assert violation(form.grammar, text) is None
        assert json.dumps(json.loads(text), separators=(",", ":")).count(" ") == text.count(" "), "it isn't compact"


@pytest.mark.parametrize(("word", "schema"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_can_not_be_kept_is_refused_by_its_name(word: str, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Verdicts().check([schema_form(schema, "tools.0.function.parameters")])
    assert refusal.value.param == "tools.0.function.parameters"
    assert re.search(rf"(?<![\w$]){re.escape(word)}(?!\w)", refusal.value.message), refusal.value.message
    assert len(refusal.value.message) < 700
