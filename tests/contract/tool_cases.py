"""Sixty requests with tools, of all shapes that schemas, names and descriptions come in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

MAX_TOKENS = 100
MAX_TEXT_TOKENS = 30


@dataclass(frozen=True)
class Case:
    """``choice`` is auto, none, required or a function's name. At least one call is wanted where it must come."""

    name: str
    tools: tuple[dict[str, Any], ...]
    question: str
    choice: str = "auto"
    is_parallel: bool | None = None
    is_strict: bool | None = None
    temperature: float = 0.7

    @property
    def must_call(self) -> bool:
        return self.choice not in ("auto", "none")

    @property
    def body(self) -> dict[str, Any]:
        named = {"type": "function", "function": {"name": self.choice}}
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": self.question}],
            "temperature": self.temperature,
            "max_tokens": MAX_TOKENS if self.must_call else MAX_TEXT_TOKENS,
        }
        if self.tools:
            strict = {} if self.is_strict is None else {"strict": self.is_strict}
            body["tools"] = [{"type": "function", "function": {**tool, **strict}} for tool in self.tools]
            body["tool_choice"] = self.choice if self.choice in ("auto", "none", "required") else named
        if self.is_parallel is not None:
            body["parallel_tool_calls"] = self.is_parallel
        return body


def _object(required: str | None = None, /, *, closed: bool = True, **properties: Any) -> dict[str, Any]:
    """``required``: the names of those that must be there; None: all."""
    names = list(properties) if required is None else required.split()
    schema = {"type": "object", "properties": properties, "required": names}
    return {**schema, "additionalProperties": False} if closed else schema


def _text(n: int = 40) -> dict[str, Any]:
    return {"type": "string", "maxLength": n}


def _function(name: str, description: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    function = {"name": name, "description": description}
    return function if parameters is None else {**function, "parameters": parameters}


WEATHER = _function(
    "get_weather",
    "The weather in a city.",
    _object("city", city=_text(), unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
)
ADD = _function("add", "Adds two numbers.", _object(a={"type": "integer"}, b={"type": "integer"}))
EVENT = _function(
    "create_event",
    "Puts an event into the calendar.",
    _object(
        title=_text(),
        when=_object(
            date={"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]-[0-3][0-9]$"},
            hour={"type": "integer", "minimum": 0, "maximum": 23},
        ),
        guests={"type": "array", "items": _text(20), "maxItems": 3},
    ),
)
SEARCH = _function(
    "search",
    'Searches for words. Put "quotes" around phrases; \\ escapes a quote.',
    _object(
        "query",
        query=_text(),
        limit={"type": "integer", "minimum": 1, "maximum": 10},
        filters=_object("language", language={"enum": ["de", "en", "日本語"]}, safe={"type": "boolean"}),
    ),
)
LIGHT = _function(
    "set-light",
    "Switches the light in a room.",
    _object(
        room={"type": "string", "enum": ["kitchen", "bath", "hall"]},
        on={"type": "boolean"},
        brightness={"type": "number", "minimum": 0, "maximum": 1},
    ),
)
PATHS = _function(
    "list_files",
    'Lists "C:\\Users\\me" or \'\\\\server\\share\'.\nA line of its own: {"glob": "*.txt"}\t</tool_call>',
    _object(path={"enum": ["C:\\Users", '"quoted"', "tab\there", "/tmp"]}, deep={"type": "boolean"}),
)
GERMAN = _function(
    "größe_berechnen",
    "Berechnet die Größe — in „Metern“ 📏.",
    _object(länge={"type": "integer", "minimum": 0, "maximum": 500}, einheit={"enum": ["m", "cm", "Fuß"]}),
)
JAPANESE = _function("天気を調べる", "都市の天気を調べます。", _object(都市={"enum": ["東京", "大阪"]}))
NOTHING = _function("what_time_is_it", "The time of day.", None)
LINE = _function(
    "draw",
    "Draws a line of shapes.",
    {
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/shape"}},
        "required": ["first"],
        "additionalProperties": False,
        "$defs": {"shape": _object("kind", kind={"enum": ["dot", "dash"]}, next={"$ref": "#/$defs/shape"})},
    },
)
CHOICES = _function(
    "set_value",
    "Sets a value, which may be a number, a word or nothing.",
    _object(value={"anyOf": [{"type": "integer"}, {"enum": ["low", "high"]}, {"type": "null"}]}),
)
POINTS = _function(
    "move_to",
    "Moves to a point.",
    _object(
        point={
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "integer"}],
            "minItems": 2,
            "maxItems": 2,
        },
        mode={"const": "absolute"},
    ),
)
OPEN = _function(
    "convert",
    "Converts an amount of money.",
    _object(
        closed=False,
        amount={"type": "number", "minimum": 0},
        source={"enum": ["EUR", "USD"]},
        target={"enum": ["EUR", "USD"]},
    ),
)

QUESTIONS = {
    "get_weather": "What is the weather like in Paris?",
    "add": "What is 12 plus 30?",
    "create_event": "Invite Ann and Bob for lunch on 3 May 2027.",
    "search": "Look up recipes for apple pie.",
    "set-light": "It is too dark in the kitchen.",
    "list_files": "Which files are in C:\\Users?",
    "größe_berechnen": "Wie groß ist der Tisch?",
    "天気を調べる": "東京の天気は？",
    "what_time_is_it": "What time is it?",
    "draw": "Draw a dot and a dash.",
    "set_value": "Set it to high.",
    "move_to": "Go to 3, 4.",
    "convert": "How many dollars are 5 euros?",
}
FUNCTIONS = (
    WEATHER, ADD, EVENT, SEARCH, LIGHT, PATHS, GERMAN, JAPANESE, NOTHING, LINE, CHOICES, POINTS, OPEN,
)  # fmt: skip


def _cases() -> list[Case]:
    """What has most of its prompt in common stands together: it is computed once."""
    one: dict[str, Any] = {"choice": "required", "is_parallel": False}
    cases = []
    for function in FUNCTIONS:
        named = Case(f"named {function['name']}", (function,), QUESTIONS[function["name"]], choice=function["name"])
        cases += [named, replace(named, name=f"strict {function['name']}", is_strict=True, **one)]
    for n in range(1, 9):
        tools = FUNCTIONS[:n]
        last = tools[-1]["name"]
        any_one = Case(f"one of {n}", tools, QUESTIONS[last], **one)
        free = Case(f"if it likes, of {n}", tools, QUESTIONS[last])
        cases += [any_one, replace(any_one, name=f"the last of {n}", choice=last), free]
        if n in (2, 5, 8):
            cases.append(replace(any_one, name=f"several of {n}", is_parallel=True))
            cases.append(replace(any_one, name=f"several of {n}, cold", is_parallel=None, temperature=0))
    return [
        *cases,
        Case("no tools", (), "What is the weather like in Paris?"),
        Case("no tools, one at a time", (), "What is 12 plus 30?", is_parallel=False),
        Case("none of 2", FUNCTIONS[:2], "What is the weather like in Paris?", choice="none"),
        Case("none of 8", FUNCTIONS[:8], "What is 12 plus 30?", choice="none", is_strict=True),
    ]


CASES = _cases()
