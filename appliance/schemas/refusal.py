"""What is said of a body that isn't as its wire type wants it: the same over HTTP and of a line in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.errors import InvalidRequest


def refusal(details: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """The error that stands for pydantic's ``details``, whose places begin inside the body."""
    # A field of several types has an error for each of them; the one that got furthest says what is wrong.
    first = _place(details[0])
    same_field = [detail for detail in details if _place(detail)[: len(first)] == first]
    detail = max(same_field, key=lambda d: (not d["type"].endswith("_type"), len(_place(d))))
    name = ".".join(_place(detail))
    match detail["type"]:
        case "model_attributes_type" | "dict_type" if not name:
            message = "the body must be a JSON object, sent with Content-Type: application/json"
        case "missing":
            message = f"{name}: is required" if name else "the body must be a JSON object"
        case "extra_forbidden":
            message = f"{name}: there is no such field"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            message = f"{name}: {message}" if name else message
        case _:
            wanted = detail["msg"].removeprefix("Input should be ")
            # Others begin with what it is: "List should have at least 1 item".
            says = f"want {wanted}" if wanted != detail["msg"] else wanted[:1].lower() + wanted[1:]
            message = f"{name or 'body'}: {says}"
    return InvalidRequest(message, param=name or None)


def _place(detail: Mapping[str, Any]) -> list[str]:
    """Where in the body an error is, without pydantic's names for the members of a union."""
    steps = [str(step) for step in detail["loc"]]
    return [
        step
        for step in steps
        if step != "str" and "[" not in step and not step.startswith(("constrained-", "function-"))
    ]
