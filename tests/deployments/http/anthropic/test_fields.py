"""Every field that Anthropic's client can send has been thought of: taken, or refused by name; and documented."""

import re
from pathlib import Path
from typing import Any

import pytest
from anthropic import types
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from pydantic import BaseModel

from deployments.http.anthropic import blocks
from deployments.http.anthropic.message_body import ConversationBody, MessageBody, OutputConfig
from deployments.http.anthropic.thinking import ThinkingBody
from deployments.http.anthropic.tools import ToolBody, ToolChoiceBody
from deployments.http.server.hints import DispatchFields

HEADERS = {"betas", "user_profile_id", "workspace_id"}
"""What the client sends as headers."""
PAGE = Path(__file__).parents[4] / "docs" / "compatibility.md"


def known(model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()}
    return names | set(getattr(model, "UNSUPPORTED", ()))


BODIES: list[tuple[type[BaseModel], Any]] = [
    (MessageBody, message_create_params.MessageCreateParamsBase),
    (MessageBody, message_create_params.MessageCreateParamsStreaming),
    (MessageBody, beta_create_params.MessageCreateParamsBase),
    (ConversationBody, message_count_tokens_params.MessageCountTokensParams),
    (ConversationBody, beta.message_count_tokens_params.MessageCountTokensParams),
]
PARTS: list[tuple[type[BaseModel], Any]] = [
    (blocks.TextBlock, types.TextBlockParam),
    (blocks.ImageBlock, types.ImageBlockParam),
    (blocks.DocumentBlock, types.DocumentBlockParam),
    (blocks.SearchResultBlock, types.SearchResultBlockParam),
    (blocks.ToolUseBlock, types.ToolUseBlockParam),
    (blocks.ToolResultBlock, types.ToolResultBlockParam),
    (blocks.ThinkingBlock, types.ThinkingBlockParam),
    (blocks.RedactedThinkingBlock, types.RedactedThinkingBlockParam),
    (blocks.Base64Source, types.Base64ImageSourceParam),
    (blocks.PdfSource, types.Base64PDFSourceParam),
    (blocks.UrlSource, types.URLImageSourceParam),
    (blocks.TextSource, types.PlainTextSourceParam),
    (blocks.ContentSource, types.ContentBlockSourceParam),
    (ThinkingBody, types.ThinkingConfigEnabledParam),
    (ThinkingBody, types.ThinkingConfigAdaptiveParam),
    (ToolBody, types.ToolParam),
    (ToolChoiceBody, types.ToolChoiceToolParam),
    (OutputConfig, types.OutputConfigParam),
]


@pytest.mark.parametrize(("ours", "theirs"), [*BODIES, *PARTS], ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_every_field_of_the_client_is_known(ours: type[BaseModel], theirs: Any) -> None:
    assert set(theirs.__annotations__) - HEADERS <= known(ours)


@pytest.mark.parametrize("name", sorted(known(MessageBody)))
def test_every_field_of_a_body_is_in_the_documentation(name: str) -> None:
    section = PAGE.read_text().partition("# Anthropic's Messages API")[2]
    assert re.search(rf"^\|.*`{name}`.*\|", section, re.MULTILINE), name


def test_our_own_fields_are_no_fields_of_theirs() -> None:
    theirs = {name for _, params in BODIES for name in params.__annotations__}
    assert not theirs & set(DispatchFields.model_fields)
