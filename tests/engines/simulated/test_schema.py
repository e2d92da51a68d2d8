"""Values for JSON schemas, checked by a validator of another hand."""

from typing import Any

import pytest
from pydantic import BaseModel, Field

from engines.errors import InvalidRequest, Unsupported
from engines.simulated.schema import SchemaWriter

jsonschema = pytest.importorskip("jsonschema")


class Place(BaseModel):
    name: str = Field(min_length=3, max_length=8)
    kind: str | None
    height_m: float = Field(gt=0, lt=1)


class Journey(BaseModel):
    places: list[Place] = Field(min_length=2)
    start: Place
    days: int = Field(ge=3, lt=9)
    costs: dict[str, int]


def write(schema: Any) -> Any:
    return SchemaWriter(schema, "sampling.guided.json_schema", "word").write()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"const": {"a": [1]}},
        {"enum": ["x", "y"]},
        {"type": ["null", "string"]},
        {"type": "string", "minLength": 9},
        {"type": "string", "maxLength": 2},
        {"type": "integer", "minimum": 5},
        {"type": "integer", "exclusiveMinimum": 5},
        {"type": "integer", "maximum": -5},
        {"type": "integer", "exclusiveMaximum": -5},
        {"type": "integer", "minimum": 1.2, "maximum": 2.8},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "minimum": 3, "maximum": 3},
        {"type": "array", "items": {"type": "null"}, "minItems": 3},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"allOf": [{"type": "integer"}]},
        {"properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
        {"$defs": {"a/b": {"type": "null"}}, "$ref": "#/$defs/a~1b"},
        Journey.model_json_schema(),
    ],
    ids=lambda schema: str(schema)[:50],
)
def test_a_value_is_valid(schema: Any) -> None:
    jsonschema.validate(write(schema), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": 3},
        {"enum": []},
        {"$ref": "#/$defs/nowhere"},
        {"type": "object", "properties": []},
        {"type": "integer", "minimum": "a"},
        {"type": "integer", "minimum": 2, "exclusiveMaximum": 2},
        {"type": "array", "minItems": -1},
        {"type": "array", "items": 3, "minItems": 1},
    ],
    ids=str,
)
def test_a_wrong_schema_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        write(schema)
    assert type(caught.value) is InvalidRequest
    assert caught.value.param == "sampling.guided.json_schema"


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "integer", "multipleOf": 7}, "multipleOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"allOf": [{"type": "object"}, {"type": "object"}]}, "allOf"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"$ref": "#"}, "refers to itself"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(schema: Any, keyword: str) -> None:
    with pytest.raises(Unsupported) as caught:
        write(schema)
    assert keyword in caught.value.message
