"""The smallest value that a JSON schema allows, more or less: what the simulated model writes when it is held to one.

Only what can be honoured is taken: a keyword that is not known here is refused by name, never ignored.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from engines.errors import InvalidRequest, Unsupported

_ANNOTATIONS = {"$schema", "$id", "$defs", "$comment", "definitions", "title", "description", "default", "examples"}
_KEYWORDS = {
    "any": {"type", "const", "enum", "anyOf", "oneOf", "allOf", "$ref"},
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}
_MAX_DEPTH = 64


class SchemaWriter:
    """Writes values for one schema.

    Args:
        root: The schema.
        param: The request's field that it came in.
        word: What is written where any string will do.
    """

    def __init__(self, root: Mapping[str, JsonValue], param: str, word: str) -> None:
        self._root = root
        self._param = param
        self._word = word

    def write(self) -> JsonValue:
        """A value that the schema allows.

        Raises:
            InvalidRequest: The schema is not one.
            Unsupported: It uses a keyword that is not known here.
        """
        return self._value(self._root, 0)

    def _value(self, schema: Any, depth: int) -> JsonValue:
        if schema is True:
            return self._word
        if not isinstance(schema, Mapping):
            raise self._invalid("a schema must be an object")
        if depth > _MAX_DEPTH:
            raise Unsupported("The JSON schema is nested too deeply, or refers to itself.", param=self._param)
        if "const" in schema:
            return self._constant(schema["const"])
        if "enum" in schema:
            return self._constant(self._list(schema, "enum")[0])
        if "$ref" in schema:
            return self._value(self._resolve(schema["$ref"]), depth + 1)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                options = self._list(schema, keyword)
                if keyword == "allOf" and len(options) > 1:
                    raise self._unsupported("allOf")
                self._check_keywords(schema, "any")
                return self._value(options[0], depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> JsonValue:
        named = schema.get("type", "object" if "properties" in schema else "string")
        kind = named[0] if isinstance(named, list) and named else named
        if not isinstance(kind, str) or kind not in _KEYWORDS or kind == "any":
            raise self._invalid(f"there is no type {named!r}")
        self._check_keywords(schema, kind)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                length = self._integer(schema, "minItems")
                return [self._value(schema.get("items", True), depth + 1) for _ in range(length)]
            case "string":
                text = self._word.ljust(self._integer(schema, "minLength"), "x")
                return text[: self._integer(schema, "maxLength")] if "maxLength" in schema else text
            case "integer" | "number":
                return self._number(schema, kind)
            case "boolean":
                return True
        return None

    def _object(self, schema: Mapping[str, Any], depth: int) -> JsonValue:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise self._invalid("properties must be an object, and required a list")
        return {name: self._value(properties.get(name, True), depth + 1) for name in required}

    def _number(self, schema: Mapping[str, Any], kind: str) -> JsonValue:
        low = self._bound(schema, ("minimum", "exclusiveMinimum"), max)
        high = self._bound(schema, ("maximum", "exclusiveMaximum"), min)
        if kind == "number":
            if low is None:
                return 0 if high is None else high - 1
            return low + 1 if high is None else (low + high) / 2
        if low is not None:
            whole = math.ceil(low)
            whole += whole == schema.get("exclusiveMinimum")
        else:
            whole = 0 if high is None else math.floor(high)
            whole -= whole == schema.get("exclusiveMaximum")
        if high is not None and (whole > high or whole == schema.get("exclusiveMaximum")):
            raise self._invalid("no whole number lies between its bounds")
        return whole

    def _bound(
        self, schema: Mapping[str, Any], keywords: tuple[str, str], tightest: Callable[[list[float]], float]
    ) -> float | None:
        bounds = [schema[keyword] for keyword in keywords if keyword in schema]
        if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in bounds):
            raise self._invalid(f"{' and '.join(keywords)} must be numbers")
        return tightest(bounds) if bounds else None

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise self._unsupported("$ref")
        target: Any = self._root
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise self._invalid(f"nothing is at {reference!r}")
            target = target[key]
        return target

    def _constant(self, value: Any) -> JsonValue:
        constant: JsonValue = value
        return constant

    def _list(self, schema: Mapping[str, Any], keyword: str) -> list[Any]:
        value = schema[keyword]
        if not isinstance(value, list) or not value:
            raise self._invalid(f"{keyword} must be a list with something in it")
        return value

    def _integer(self, schema: Mapping[str, Any], keyword: str) -> int:
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**16:
            raise self._invalid(f"{keyword} must be a small whole number")
        return value

    def _check_keywords(self, schema: Mapping[str, Any], kind: str) -> None:
        for keyword in schema:
            if keyword not in _ANNOTATIONS and keyword not in _KEYWORDS["any"] and keyword not in _KEYWORDS[kind]:
                raise self._unsupported(keyword)

    def _invalid(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"The JSON schema is wrong: {why}.", param=self._param)

    def _unsupported(self, keyword: str) -> Unsupported:
        return Unsupported(f"The JSON schema's {keyword!r} is not supported by this engine.", param=self._param)
