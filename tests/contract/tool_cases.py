"""Sixty requests with tools, of all shapes that schemas, names and descriptions come in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


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
_THING = {"anyOf": [{"enum": ["ball", "cup", "book"]}, {"$ref": "#/$defs/box"}]}
BOXES = _function(
    "pack",
    "Packs a thing into a box; the thing may be another box.",
    {
        "type": "object",
        "properties": {"thing": _THING, "size": {"enum": ["small", "large"]}},
        "required": ["thing", "size"],
        "additionalProperties": False,
        "$defs": {"box": _object(thing=_THING, size={"enum": ["small", "large"]})},
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
    "pack": "Pack the ball into a small box.",
    "set_value": "Set it to high.",
    "move_to": "Go to 3, 4.",
    "convert": "How many dollars are 5 euros?",
}
FUNCTIONS = (
    WEATHER, ADD, EVENT, SEARCH, LIGHT, PATHS, GERMAN, JAPANESE, NOTHING, BOXES, CHOICES, POINTS, OPEN,
)  # fmt: skip


def _cases() -> list[Case]:
    """Those with the same tools stand apart: the later one finds its prompt computed."""
    named = [Case(f"named {f['name']}", (f,), QUESTIONS[f["name"]], choice=f["name"]) for f in FUNCTIONS]
    one = {"choice": "required", "is_parallel": False}
    strict = [replace(case, name=f"strict {case.choice}", is_strict=True, **one) for case in named]
    of_many, the_last, several, as_it_likes = [], [], [], []
    for n in range(1, 9):
        tools = tuple(FUNCTIONS[(n + number) % len(FUNCTIONS)] for number in range(n))
        question = QUESTIONS[tools[-1]["name"]]
        of_many.append(Case(f"one of {n}", tools, question, **one))
        the_last.append(Case(f"the last of {n}", tools, question, choice=tools[-1]["name"]))
        if n in (2, 4, 6):
            questions = f"{QUESTIONS[tools[0]['name']]} {question}"
            several.append(Case(f"several of {n}", tools, questions, choice="required", is_parallel=True))
            several.append(Case(f"several of {n}, cold", tools, questions, choice="required", temperature=0))
        if n in (1, 2, 3, 8):
            as_it_likes.append(Case(f"if it likes, of {n}", tools, question))
            as_it_likes.append(Case(f"one if it likes, of {n}", tools, question, is_parallel=False))
    without = [
        Case("no tools", (), "What is the weather like in Paris?"),
        Case("no tools, one at a time", (), "What is 12 plus 30?", is_parallel=False),
        Case("none of 2", FUNCTIONS[:2], "What is the weather like in Paris?", choice="none"),
        Case("none of 8", FUNCTIONS[:8], "What is 12 plus 30?", choice="none", is_strict=True),
    ]
    return [*named, *of_many, *strict, *the_last, *several, *as_it_likes, *without]


CASES = _cases()
