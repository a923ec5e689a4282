"""Tools of a request, and the calls that its answers' texts hold.

What the engine gives and the response cache keeps is the raw text. Each answer is read by an :class:`AnswerReader`,
whole or as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from appliance.chat.argument_types import is_json
from appliance.chat.call_grammar import answer_grammar
from appliance.chat.call_parser import ToolCallParser
from appliance.chat.dialect import Dialect
from appliance.chat.formats import Form, schema_form
from appliance.chat.relaxed_schema import relaxed
from appliance.chat.tools import CallArguments, CallBegun, CallEvent, Content, Tool
from appliance.errors import InvalidRequest
from appliance.schemas.chat import ChatRequest
from appliance.schemas.tools import FunctionDefinition
from appliance.service.catalog import ServedModel

TOOL_PARAM = "tools.{}.function"

# A function without parameters takes none.
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """``tools`` are in the prompt, ``grammar`` lets those be called that may be. ``forms`` are what must be enforced of
    their arguments. ``must_call``: an answer has a call; ``is_named``: of the one that the request names.
    ``is_legacy``: they came as ``functions``, and are answered so.
    """

    tools: tuple[Tool, ...]
    grammar: str
    forms: tuple[Form, ...]
    dialect: Dialect
    must_call: bool
    is_named: bool
    is_legacy: bool

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        return self.dialect.shown_tokens

    def reader(self) -> AnswerReader:
        return AnswerReader(self)

    def strict_parts(self, text: str) -> Sequence[tuple[Form, str]]:
        """The arguments in a whole answer that must be as their tools want them; none that are cut off."""
        strict = {tool.name: form for tool, form in zip(self.tools, self.forms, strict=True) if tool.strict}
        if not strict:
            return ()
        reading = self.read(text, "stop")
        calls = reading.calls[:-1] if reading.finish_reason == "length" else reading.calls
        return [(strict[call.name], call.arguments) for call in calls if call.name in strict]

    def read(self, text: str, finish_reason: str | None) -> Reading:
        """A whole answer."""
        reader = self.reader()
        reading = Reading(finish_reason)
        for event in [*reader.push(text), *reader.finish()]:
            match event:
                case Content(piece):
                    reading.content += piece
                case CallBegun(_, name):
                    reading.calls.append(Call(name))
                case CallArguments(index, piece):
                    reading.calls[index].arguments += piece
        reading.finish_reason = reader.finish_reason(finish_reason)
        return reading


@dataclass(slots=True)
class Call:
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Reading:
    """What a whole answer says."""

    finish_reason: str | None
    content: str = ""
    calls: list[Call] = field(default_factory=list)


class AnswerReader:
    """Reads one answer as its text comes."""

    def __init__(self, use: ToolUse) -> None:
        self._use = use
        self._parser = ToolCallParser(use.dialect, use.tools)
        # Of the last call; None: there is none.
        self._arguments: list[str] | None = None

    def push(self, text: str) -> list[CallEvent]:
        return self._seen(self._parser.push(text))

    def finish(self) -> list[CallEvent]:
        """What was held back since it might have become something else."""
        return self._seen(self._parser.finish())

    def finish_reason(self, reason: str | None) -> str | None:
        """As OpenAI has it: ``tool_calls`` if the text came to its end with calls, but ``stop`` if the request named
        the function. A call that a stop string cut off is no better than one that was too long, and ends as such.
        """
        use = self._use
        if reason != "stop" or (self._arguments is None and not use.must_call):
            return reason
        if self._arguments is None or not is_json("".join(self._arguments)):
            return "length"
        if use.is_named:
            return "stop"
        return "function_call" if use.is_legacy else "tool_calls"

    def _seen(self, events: list[CallEvent]) -> list[CallEvent]:
        for event in events:
            if isinstance(event, CallBegun):
                self._arguments = []
            elif isinstance(event, CallArguments) and self._arguments is not None:
                self._arguments.append(event.text)
        return events


def tool_use(model: ServedModel, request: ChatRequest) -> ToolUse | None:
    """None: nothing may be called, and then there are no tools in the prompt either.

    Raises:
        InvalidRequest: a function's parameters are no schema of an object, or can't be kept to.
    """
    if not request.may_call or model.dialect is None:
        return None
    param = "functions.{}" if request.functions else TOOL_PARAM
    tools = offered_tools(request.offered, param)
    enforced = [tool if tool.strict else replace(tool, parameters=relaxed(tool.parameters)) for tool in tools]
    choice = request.choice
    callable_tools = [tool for tool in enforced if choice.names is None or tool.name in choice.names]
    is_named = choice.function is not None
    meant = "required" if choice.must_call else "auto"  # of those that may be called, a named one is the only one
    # A named function is called once; the older form has no place for a second call.
    is_parallel = request.parallel_tool_calls is not False and not is_named and not request.functions
    return ToolUse(
        tools=tools,
        grammar=answer_grammar(model.dialect, callable_tools, meant, parallel=is_parallel),
        forms=tuple(schema_form(tool.schema, f"{param.format(n)}.parameters") for n, tool in enumerate(enforced)),
        dialect=model.dialect,
        must_call=choice.must_call,
        is_named=is_named,
        is_legacy=bool(request.functions),
    )


def offered_tools(functions: Iterable[FunctionDefinition], param: str = TOOL_PARAM) -> tuple[Tool, ...]:
    """As prompts and grammars want them; ``param`` is the name of the request's field number {} in errors."""
    return tuple(_tool(function, param.format(number)) for number, function in enumerate(functions))


def _tool(function: FunctionDefinition, param: str) -> Tool:
    parameters = _NO_ARGUMENTS if function.parameters is None else function.parameters
    if parameters.get("type", "object") != "object":
        param = f"{param}.parameters"
        raise InvalidRequest(f"{param}: want a JSON schema of the type 'object'", param=param)
    return Tool(function.name, function.description, parameters, strict=bool(function.strict))
