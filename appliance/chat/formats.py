"""From the form that a request wants to the grammar that its text follows, and whether it did."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from appliance.chat import json_schema, last_look
from appliance.chat.json_schema import MAX_MERGED, Unenforceable
from appliance.engine.grammar import LIMITS
from appliance.errors import InvalidRequest
from appliance.schemas.sampling import GenerationFields

# How JSON is written: in as few tokens as can be, and each text in one spelling only. With \u a second one of a
# property's name would pass for the name of another.
JSON_STYLE: Any = {"whitespace_flexible": False, "json_allowed_escapes": 'nrbtf\\"'}

# Smaller schemas take no longer than a few milliseconds.
INLINE_CHARS = 1024
# Verdicts that are kept, each of a hundred bytes.
MAX_KNOWN = 1024

# llguidance goes through rules by recursion: from some two thousand on it could take the process with it.
MAX_RULES = 500
_RULE = re.compile(r"[\w\]}]\s*:")
# What turns GBNF into Lark takes a quarter of a second for four times as much, and the event loop waits for it.
MAX_GBNF_CHARS = 8 * 1024

# Of a rule in Lark; the engine samples in one way from beginning to end, and takes nothing back.
_RULE_OPTIONS = re.compile(
    r'^[ \t]*[!?]?[\w-]+[ \t]*\[(?:"(?:[^"\\\n]|\\.)*"|[^\]"\n])*?\b(stop|temperature)\b', re.MULTILINE
)


# Texts and regular expressions of a grammar in Lark.
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')


@dataclass(frozen=True, slots=True)
class Form:
    """The grammar that a text must follow, as ``Submit.grammar`` has it, and the field of the request it is from."""

    grammar: str
    param: str


def form_of(fields: GenerationFields) -> Form | None:
    """None: any text. Raises InvalidRequest for a grammar that is no text of one."""
    if fields.regex is not None:
        (made,) = orjson.loads(LLMatcher.grammar_from_regex(fields.regex))["grammars"]
        return Form(made["lark_grammar"], "regex")
    if fields.grammar is not None:
        return Form(_lark(fields.grammar), "grammar")
    if fields.response_format is None or fields.response_format.type == "text":
        return None
    named = fields.response_format.json_schema
    return schema_form({"type": "object"} if named is None else named.definition, "response_format")


def schema_form(schema: Mapping[str, Any], param: str) -> Form:
    """That of a text that is JSON by a schema."""
    return Form(LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode(), overrides=JSON_STYLE), param)


def _lark(text: str) -> str:
    if text.lstrip().startswith("{"):  # llguidance would read grammars of all kinds from it
        raise InvalidRequest("grammar: want one in Lark or GBNF", param="grammar")
    if "::=" not in text:
        return text
    if len(text) > MAX_GBNF_CHARS:
        raise InvalidRequest(
            f"grammar: at most {MAX_GBNF_CHARS} characters of GBNF are supported; write it in Lark", param="grammar"
        )
    try:
        return gbnf_to_lark(text)
    except RecursionError:
        raise InvalidRequest("grammar: is nested too deep", param="grammar") from None
    except Exception as error:  # what its converter raises has no class of its own
        raise InvalidRequest(f"grammar: is no GBNF: {str(error)[:500]}", param="grammar") from None


class Verdicts:
    """Which forms can be kept to the letter. What was looked at lately is known."""

    def __init__(self) -> None:
        # By the hash of a grammar; empty: it can be kept.
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def are_quick(self, forms: Sequence[Form]) -> bool:
        """Whether :meth:`check` of all of them takes no longer than a few milliseconds."""
        unknown = [form.grammar for form in forms if _hash(form.grammar) not in self._known]
        # A few rules of Lark may stand for millions of states.
        return sum(map(len, unknown)) <= INLINE_CHARS and all(grammar.startswith("{") for grammar in unknown)

    def check(self, forms: Sequence[Form]) -> None:
        """Raises InvalidRequest, naming what can't be kept. No model is needed to tell."""
        for form in forms:
            self._check(form)

    def _check(self, form: Form) -> None:
        key = _hash(form.grammar)
        problem = self._known.get(key)
        if problem is None:
            problem = self._known[key] = _problem(form.grammar) or ""
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if problem:
            raise InvalidRequest(f"{form.param}: {problem}", param=form.param)


def violation(grammar: str, text: str) -> str | None:
    """What of a finished text isn't as its grammar's JSON schema wants it; None: all is, or there is no schema."""
    schema = _schema(grammar)
    if schema is None:
        return None
    try:
        return last_look.violation(schema, json.loads(text))
    except json.JSONDecodeError as error:
        return f"it is no JSON: {error}"
    except (last_look.TooIntricate, RecursionError, ValueError):
        return None  # the grammar alone has seen it: it is deeper, or has a longer number, than can be looked at


def _hash(grammar: str) -> bytes:
    return hashlib.sha256(grammar.encode()).digest()


def _schema(grammar: str) -> dict[str, Any] | None:
    """What :func:`schema_form` made it of; None: it is Lark."""
    if not grammar.startswith("{"):
        return None
    (made,) = orjson.loads(grammar)["grammars"]
    schema: dict[str, Any] = made["json_schema"]
    if schema["x-guidance"] == JSON_STYLE:
        del schema["x-guidance"]
    return schema


def _problem(grammar: str) -> str | None:
    """What keeps a grammar from being kept, in words for whoever wrote it."""
    schema = _schema(grammar)
    try:
        if schema is not None:
            json_schema.check(schema)
        else:
            _check_lark(grammar)
    except Unenforceable as error:
        return str(error)
    except RecursionError:
        return "is nested too deep"
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    # Without a model there are warnings that names of control tokens can't be looked at.
    return _in_words(messages[0]) if is_error else None


def _check_lark(grammar: str) -> None:
    """Raises Unenforceable for what llguidance would pass over, or take too long for."""
    if len(_RULE.findall(grammar)) > MAX_RULES:
        raise Unenforceable(f"at most {MAX_RULES} rules are supported")
    if _QUOTED.sub("", grammar).count("&") > MAX_MERGED:
        raise Unenforceable(f"at most {MAX_MERGED} & are supported")
    if (found := _RULE_OPTIONS.search(grammar)) is not None:
        raise Unenforceable(f"the rule option {found[1]} is not supported")
    for found in re.finditer(r"%json\s*", grammar):
        try:
            schema, _ = _decoder.raw_decode(grammar, found.end())
        except (ValueError, RecursionError) as error:
            raise Unenforceable(f"what stands behind %json is no JSON: {error}") from None
        if not isinstance(schema, dict):
            raise Unenforceable("want an object behind %json")
        json_schema.check({name: value for name, value in schema.items() if name != "x-guidance"})


def _in_words(message: str) -> str:
    """llguidance's message without what its own developers want to know."""
    for pattern, words in _WORDS:
        if (found := pattern.search(message)) is not None:
            return found.expand(words)[:500]
    return " ".join(message.split())[:500]


_decoder = json.JSONDecoder()
_WORDS = tuple(
    (re.compile(pattern, re.DOTALL), words)
    for pattern, words in (
        (r"Unimplemented keys: \[(.*?)\]", r"\1: can't be enforced"),
        (
            r"oneOf constraints are not supported",
            "oneOf: can only be enforced where no JSON can meet two of them for"
            " evident reasons: different types, or a required property with different texts as its const; use anyOf",
        ),
        (r"Unsatisfiable schema: (.*)", r"no JSON meets it: \1"),
        (r"min/maxProperties only supported when", r"minProperties, maxProperties: can only be enforced when"),
        (r"patternProperty regexes (.*)", r"patternProperties: \1"),
        (r"regex parse error:\s+(.*?)\n.*?error: ([^\n]*)", r"pattern: \2: \1"),
        (
            r"lookarounds not supported yet; \w+ in regex (.*)",
            r"pattern: lookarounds, ^ and $ inside, and \\b can't be"
            r" enforced: \1",
        ),
        (r"Failed to generate regex for (\w+ range: .*)", r"minimum, maximum: can't be enforced: \1"),
    )
)
