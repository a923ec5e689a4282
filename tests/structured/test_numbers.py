"""Ranges of numbers against arithmetic: no number outside is let through, however it is written."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest

from appliance.chat.formats import Verdicts, schema_form
from appliance.errors import InvalidRequest
from tests.structured.walk import compiled

BOUNDS = (-10, -1.5, -1, -0.25, 0, 0.05, 0.5, 1, 1.5, 2, 12.5)
OFFSETS = (0, 0.001, -0.001, 0.5, -0.5, 1, -1)


def spellings() -> list[str]:
    numbers = {round(bound + offset, 6) for bound in BOUNDS for offset in OFFSETS}
    texts = {f"{number:g}" for number in numbers} | {f"{number:.4f}" for number in numbers}
    return sorted(texts | {"-0", "-0.0", "0.0", "1e1", "1E-5", "-2e0", "0e5"})


TEXTS = spellings()


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("low", ["minimum", "exclusiveMinimum"])
@pytest.mark.parametrize("high", ["maximum", "exclusiveMaximum"])
def test_no_number_outside_a_range_is_let_through(kind: str, low: str, high: str) -> None:
    verdicts, n_kept = Verdicts(), 0
    for least, greatest in itertools.product((*BOUNDS, None), repeat=2):
        schema: dict[str, Any] = {"type": kind}
        schema |= {} if least is None else {low: least}
        schema |= {} if greatest is None else {high: greatest}
        form = schema_form(schema, "x")
        try:
            verdicts.check([form])
        except InvalidRequest:
            continue
        n_kept += 1
        matcher = compiled(form.grammar)
        for text in TEXTS:
            one, data = matcher.deep_copy(), list(text.encode())
            if one.try_consume_tokens(data) != len(data) or not one.is_accepting():
                continue
            value = Fraction(text)
            assert kind == "number" or value.denominator == 1, (schema, text)
            if least is not None:
                distance = value - Fraction(str(least))
                assert distance >= 0 if low == "minimum" else distance > 0, (schema, text)
            if greatest is not None:
                distance = Fraction(str(greatest)) - value
                assert distance >= 0 if high == "maximum" else distance > 0, (schema, text)
    assert n_kept > 40
