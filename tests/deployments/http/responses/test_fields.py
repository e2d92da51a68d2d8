"""Every field that OpenAI's client can send has been thought of: taken, or refused by name; and documented."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from openai.types import responses, shared_params
from openai.types.responses import (
    input_token_count_params,
    response_compact_params,
    response_create_params,
    response_input_item_param,
)
from pydantic import BaseModel

from deployments.http.responses import items
from deployments.http.responses.items import OF_HOSTED_TOOLS
from deployments.http.responses.reasoning import ReasoningBody
from deployments.http.responses.response_body import (
    CompactBody,
    ContextBody,
    FormatBody,
    Includable,
    ResponseBody,
    TextBody,
)
from deployments.http.responses.tools import HOSTED, CustomTool, FunctionTool, ToolChoiceBody
from deployments.http.server.hints import DispatchFields
from tests.deployments.http.responses.talking import EVENTS

PAGE = Path(__file__).parents[4] / "docs" / "compatibility.md"


def known(model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()}
    if "is_async" in names:
        # A word of Python's, which the client's models write otherwise.
        names |= {"async", "async_"}
    return names | set(getattr(model, "UNSUPPORTED", ()))


BODIES: list[tuple[type[BaseModel], Any]] = [
    (ResponseBody, response_create_params.ResponseCreateParamsBase),
    (ResponseBody, response_create_params.ResponseCreateParamsStreaming),
    (ContextBody, input_token_count_params.InputTokenCountParams),
    (CompactBody, response_compact_params.ResponseCompactParams),
]
PARTS: list[tuple[type[BaseModel], Any]] = [
    (items.InputText, responses.ResponseInputTextParam),
    (items.InputImage, responses.ResponseInputImageParam),
    (items.InputFile, responses.ResponseInputFileParam),
    (items.OutputText, responses.ResponseOutputTextParam),
    (items.Refusal, responses.ResponseOutputRefusalParam),
    (items.MessageItem, responses.EasyInputMessageParam),
    (items.MessageItem, response_input_item_param.Message),
    (items.MessageItem, responses.ResponseOutputMessageParam),
    (items.FunctionCallItem, responses.ResponseFunctionToolCallParam),
    (items.FunctionCallOutputItem, response_input_item_param.FunctionCallOutput),
    (items.CustomToolCallItem, responses.ResponseCustomToolCallParam),
    (items.CustomToolCallOutputItem, responses.ResponseCustomToolCallOutputParam),
    (items.ReasoningItem, responses.ResponseReasoningItemParam),
    (items.CompactionItem, responses.ResponseCompactionItemParamParam),
    (items.ItemReference, response_input_item_param.ItemReference),
    (FunctionTool, responses.FunctionToolParam),
    (CustomTool, responses.CustomToolParam),
    (ToolChoiceBody, responses.ToolChoiceFunctionParam),
    (ToolChoiceBody, responses.ToolChoiceCustomParam),
    (ToolChoiceBody, responses.ToolChoiceAllowedParam),
    (TextBody, responses.ResponseTextConfigParam),
    (FormatBody, responses.ResponseFormatTextJSONSchemaConfigParam),
    (ReasoningBody, shared_params.Reasoning),
]


@pytest.mark.parametrize(("ours", "theirs"), [*BODIES, *PARTS], ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_every_field_of_the_client_is_known(ours: type[BaseModel], theirs: Any) -> None:
    assert set(theirs.__annotations__) <= known(ours)


@pytest.mark.parametrize("name", sorted(known(ResponseBody)))
def test_every_field_of_a_body_is_in_the_documentation(name: str) -> None:
    section = PAGE.read_text().partition("# OpenAI's Responses API")[2]
    assert re.search(rf"^\|.*`{name}`.*\|", section, re.MULTILINE), name


def test_our_own_fields_are_no_fields_of_theirs() -> None:
    theirs = {name for _, params in BODIES for name in params.__annotations__}
    assert not theirs & set(DispatchFields.model_fields)


def types_of(union: Any) -> set[str]:
    """The types of the members of a union of the client's."""
    found = set()
    for member in get_args(union):
        # `Required[Literal["..."]]` and `Literal["..."]`, as text.
        found |= set(re.findall(r"'([a-z_0-9]+)'", str(member.__annotations__["type"])))
    return found


def test_every_type_of_item_and_tool_is_known() -> None:
    of_items = types_of(response_input_item_param.ResponseInputItemParam)
    assert of_items <= set(items.TAGS) | OF_HOSTED_TOOLS
    of_tools = types_of(responses.ToolParam)
    assert of_tools <= {"function", "custom"} | HOSTED


def test_what_may_be_included_is_what_the_client_knows() -> None:
    assert set(get_args(responses.ResponseIncludable)) == set(get_args(Includable))


def test_events_are_the_clients() -> None:
    assert {"response.created", "response.output_text.delta", "response.failed"} < set(EVENTS)
