"""Runs a chat template, which comes with a model's file and is untrusted.

It runs in Jinja's immutable sandbox, with a time limit that is checked in every loop and macro, and with an output
limit.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.errors import ConfigError, InvalidRequest

RENDER_LIMIT_S = 1.0
OUTPUT_LIMIT_CHARS = 16 * 1024 * 1024

_TICK = "appliance_tick"
# What makes text of any length out of a number. Templates come from the lock, but nothing good needs these.
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format_map"})
_UNBOUNDED_FILTERS = ("center", "format")
# A width of five digits, or one that is itself a field.
_WIDE_FORMAT = re.compile(r"\d{5}|\{[^{}]*\{")
_MAX_INDENT = 64


class _LimitExceeded(Exception):
    pass


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and (attr in _PADDING or (attr == "format" and _WIDE_FORMAT.search(obj))):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja asks for this before it asks whether the attribute is safe."""
        wrapped = super().wrap_str_format(value)
        return wrapped if wrapped is not None and not _WIDE_FORMAT.search(value.__self__) else None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # Each could make gigabytes out of a line of template in one step, between two looks at the clock.
        if operator == "%" and isinstance(left, str):
            raise _LimitExceeded("it formats text with %")
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            raise _LimitExceeded("it repeats text with *")
        if operator == "**" and not (abs(left) <= 1024 and abs(right) <= 64):
            raise _LimitExceeded("it raises a number to a large power")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(Extension):
    """``{% generation %}``: marks, for training, what the assistant says. It stands for its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateLimitExceeded(InvalidRequest):
    """The template takes too long, or writes too much."""


class SandboxedTemplate:
    """A Jinja template, compiled."""

    def __init__(
        self,
        source: str,
        *,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``clock`` limits how long it computes, which on a busy machine isn't how long it takes.

        Raises ConfigError if the template can't be compiled.
        """
        self._now = now
        self._clock = clock
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
        )
        environment.filters["tojson"] = _tojson
        for name in _UNBOUNDED_FILTERS:
            del environment.filters[name]
        environment.filters["indent"] = _indent
        del environment.globals["lipsum"]
        try:
            tree = environment.parse(source)
            for loop in tree.find_all(nodes.For):
                loop.body.insert(0, _tick_node(loop.lineno))
            for macro in tree.find_all(nodes.Macro):
                macro.body.insert(0, _tick_node(macro.lineno))
            code = environment.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"the model's chat template is no valid Jinja: {error}") from None
        self._template = jinja2.Template.from_code(environment, code, environment.make_globals(None))

    def render(self, variables: Mapping[str, Any]) -> str:
        """What the template writes with these variables.

        Raises:
            InvalidRequest: it refuses them, or passes its limits.
        """
        deadline = self._clock() + RENDER_LIMIT_S

        def tick() -> None:
            if self._clock() > deadline:
                raise _LimitExceeded(f"it takes longer than {RENDER_LIMIT_S:g} s")

        pieces = self._template.generate(
            {
                **variables,
                "raise_exception": _raise_exception,
                "strftime_now": lambda form: self._now().strftime(form),
                _TICK: tick,
            }
        )
        output: list[str] = []
        n_chars = 0
        try:
            for piece in pieces:
                tick()
                n_chars += len(piece)
                if n_chars > OUTPUT_LIMIT_CHARS:
                    raise _LimitExceeded(f"it writes more than {OUTPUT_LIMIT_CHARS} characters")
                output.append(piece)
        except _LimitExceeded as error:
            message = f"the model's chat template passes a limit: {error}"
            raise TemplateLimitExceeded(message, param="messages") from None
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            KeyError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return "".join(output)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's own, up to a width that somebody could want."""
    if len(width) > _MAX_INDENT if isinstance(width, str) else width > _MAX_INDENT:
        raise _LimitExceeded(f"it indents by more than {_MAX_INDENT}")
    return do_indent(text, width, first, blank)


def _tick_node(lineno: int) -> nodes.Node:
    return nodes.ExprStmt(nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)).set_lineno(lineno)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    **_: Any,
) -> str:
    """As in transformers: no HTML escapes. Characters stay as they are, whatever is asked for."""
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
