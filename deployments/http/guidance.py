"""What the output must look like, in the ways that OpenAI's and vLLM's APIs say it."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from deployments.http.validation import check_known, invalid_request
from engines.errors import InvalidRequest
from engines.requests import Guided

_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_LEGACY = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_FORMATS = ("text", "json_object", "json_schema", "structural_tag")


def guidance(data: Mapping[str, Any]) -> Guided | None:
    """The constraint in `response_format`, `structured_outputs` or a `guided_*` field; None when there is none.

    Raises:
        InvalidRequest: It is not understood, or there are two.
    """
    found = _constraints(data)
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(param for param, _, _ in found[:2])
        raise InvalidRequest(f"Give one constraint on the output; got {names}.", param=found[1][0])
    param, kind, value = found[0]
    try:
        return Guided.model_validate({kind: value})
    except ValidationError as error:
        reason = invalid_request(error, {}).message
        raise InvalidRequest(f"{param}: {reason}", param=param) from None


def constraint_field(data: Mapping[str, Any]) -> str | None:
    """The field that holds the constraint of a body that `guidance` understood."""
    return next((param for param, _, _ in _constraints(data)), None)


_Constraint = tuple[str, str, Any]
"""The field that holds it, its name in Guided, its value."""


def _constraints(data: Mapping[str, Any]) -> list[_Constraint]:
    found = (_from_response_format(data), _from_structured_outputs(data), *_from_legacy(data))
    return [constraint for constraint in found if constraint is not None]


def _from_response_format(data: Mapping[str, Any]) -> _Constraint | None:
    given = data.get("response_format")
    if given is None:
        return None
    param = "response_format"
    kind = _object(given, param).get("type")
    match kind:
        case "text":
            return None
        case "json_object":
            return param, "json_object", True
        case "json_schema":
            wrapper = _object(given.get("json_schema"), f"{param}.json_schema")
            schema = f"{param}.json_schema.schema"
            return schema, "json_schema", _object(wrapper.get("schema"), schema)
        case "structural_tag":
            return param, "structural_tag", json.dumps(given)
    raise InvalidRequest(f"{param}.type: it must be one of {', '.join(_FORMATS)}.", param=f"{param}.type")


def _from_structured_outputs(data: Mapping[str, Any]) -> _Constraint | None:
    given = data.get("structured_outputs")
    if given is None:
        return None
    param = "structured_outputs"
    check_known(_object(given, param), _STRUCTURED, f"{param}.")
    # False says no more than null: no constraint of that kind.
    kinds = [kind for kind in _STRUCTURED if given.get(kind) not in (None, False)]
    if len(kinds) != 1:
        raise InvalidRequest(f"{param}: give exactly one of {', '.join(_STRUCTURED)}.", param=param)
    kind = kinds[0]
    return _constraint(f"{param}.{kind}", kind, given[kind])


def _from_legacy(data: Mapping[str, Any]) -> list[_Constraint]:
    return [_constraint(name, name.removeprefix("guided_"), data[name]) for name in _LEGACY if data.get(name)]


def _constraint(param: str, kind: str, value: Any) -> _Constraint:
    if kind == "json":
        return param, "json_schema", _object(_parsed(value, param), param)
    if kind == "structural_tag" and not isinstance(value, str):
        value = json.dumps(value)
    return param, kind, value


def _parsed(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{param}: it is not valid JSON.", param=param) from None


def _object(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: it must be a JSON object.", param=param)
    return value
