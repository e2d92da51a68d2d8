"""What the output must look like, in the ways that OpenAI's and vLLM's APIs say it."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from deployments.http.server.json_guard import parse_object
from deployments.http.server.names import Location, notation
from deployments.http.server.validation import check_known
from engines.errors import InvalidRequest
from engines.requests import Guided

_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_LEGACY = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_MAX_SCHEMA_CHARS = 2**20
"""Of a schema that is given as text: it is parsed in one go, while everybody else waits."""
_MAX_SCHEMA_DEPTH = 100


class Constraint(NamedTuple):
    """What the output must look like.

    Attributes:
        place: Where the caller says so.
        kind: Its name in Guided.
        value: Its value there.
    """

    place: Location
    kind: str
    value: Any

    def names(self) -> dict[Location, Location | None]:
        """Whichever of its fields is named, the caller has the one."""
        table: dict[Location, Location | None] = {("guided",): self.place}
        for kind in Guided.model_fields:
            table["guided", kind] = self.place
        return table


def guidance(data: Mapping[str, Any]) -> Constraint | None:
    """The constraint in `response_format`, `structured_outputs` or a `guided_*` field; None when there is none.

    Raises:
        InvalidRequest: It is not understood, or there are two.
    """
    found = _constraints(data)
    if len(found) > 1:
        first, second = (notation(constraint.place) for constraint in found[:2])
        raise InvalidRequest(f"Give one constraint on the output; got {first} and {second}.", param=second)
    return found[0] if found else None


def _constraints(data: Mapping[str, Any]) -> list[Constraint]:
    found = (_from_response_format(data), _from_structured_outputs(data), *_from_legacy(data))
    return [constraint for constraint in found if constraint is not None]


def _from_response_format(data: Mapping[str, Any]) -> Constraint | None:
    given = data.get("response_format")
    if given is None:
        return None
    param = "response_format"
    kind = _object(given, param).get("type")
    match kind:
        case "text":
            return None
        case "json_object":
            return Constraint((param,), "json_object", True)
        case "json_schema":
            wrapper = _object(given.get("json_schema"), f"{param}.json_schema")
            schema = _object(wrapper.get("schema"), f"{param}.json_schema.schema")
            return Constraint((param, "json_schema", "schema"), "json_schema", schema)
        case "structural_tag":
            return Constraint((param,), "structural_tag", json.dumps(given))
    raise InvalidRequest(f"{param}.type: it must be one of {', '.join(_FORMATS)}.", param=f"{param}.type")


def _from_structured_outputs(data: Mapping[str, Any]) -> Constraint | None:
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
    return _constraint((param, kind), kind, given[kind])


def _from_legacy(data: Mapping[str, Any]) -> list[Constraint]:
    return [_constraint((name,), name.removeprefix("guided_"), data[name]) for name in _LEGACY if data.get(name)]


def _constraint(place: Location, kind: str, value: Any) -> Constraint:
    if kind == "json":
        param = notation(place) or ""
        return Constraint(place, "json_schema", _object(_parsed(value, param), param))
    if kind == "structural_tag" and not isinstance(value, str):
        value = json.dumps(value)
    return Constraint(place, kind, value)


def _parsed(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_SCHEMA_CHARS:
        raise InvalidRequest(f"{param}: it is longer than {_MAX_SCHEMA_CHARS} characters.", param=param)
    try:
        # The guard of the body has seen one string here, whatever it holds.
        return parse_object(value.encode("utf-8", "surrogatepass"), _MAX_SCHEMA_DEPTH)
    except InvalidRequest as error:
        raise InvalidRequest(f"{param}: {error.message.replace('The body', 'it')}", param=param) from None


def _object(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: it must be a JSON object.", param=param)
    return value
