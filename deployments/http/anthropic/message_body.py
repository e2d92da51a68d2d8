"""Bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`, and what an engine is asked for because of them.

Types are checked here; ranges are checked by `engines.requests`, whose errors come back in the caller's names.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field

from deployments.http.anthropic.blocks import InputMessage, TextBlock
from deployments.http.anthropic.conversation import Conversation
from deployments.http.anthropic.thinking import ThinkingBody
from deployments.http.anthropic.tools import ToolChoiceBody, Tools, tools_for_engine
from deployments.http.server.asking import Asking
from deployments.http.server.body_parts import Ignored, Refusals, Strict, supported
from deployments.http.server.hints import DispatchFields, DispatchHints
from deployments.http.server.names import Location, Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import TokenizeRequest
from engines.errors import InvalidRequest, Unsupported
from engines.requests import GenerateRequest, Sampling

_HOSTING = "it is about Anthropic's own servers; leave it out"


class ThreadUnsupported(Unsupported):
    """The request goes on with a conversation that Anthropic keeps: by this code its clients send the whole instead."""

    code = "thread_unsupported_request"


class FormatBody(Strict):
    """What the answer must look like."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    """How much work goes into the answer, and what it must look like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FormatBody | None = None


class Metadata(Strict):
    """Whom the request is for, in the client's own words; nobody here reads it."""

    user_id: str | None = None


class ConversationBody(DispatchFields):
    """A conversation, and how it is shown to the model.

    `UNSUPPORTED` names the documented fields that cannot be honoured: why not, and the values that ask for nothing.
    Null always asks for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    UNSUPPORTED: ClassVar[Refusals] = {
        "container": (_HOSTING, ()),
        "inference_geo": (_HOSTING, ()),
        "user_profile_id": (_HOSTING, ()),
        "workspace_id": (_HOSTING, ()),
        "billing_policy": (_HOSTING, ()),
        "fallback_credit_token": (_HOSTING, ()),
        "thread": ("no conversation is kept here; send the whole of it", ()),
        "speed": ("there is one speed here; leave it out", ("standard",)),
        "service_tier": (_HOSTING, ("auto", "standard_only")),
        "mcp_servers": ("this server calls no other; call them yourself, and give their tools in tools", ([],)),
        "diagnostics": ("caches are not diagnosed here; leave it out", ()),
        "context_management": ("nothing is taken out of a conversation here; shorten it before it is sent", ({},)),
        "compaction": ("nothing is taken out of a conversation here; shorten it before it is sent", ()),
        "fallbacks": ("name a model of the fleet that has fallbacks of its own", ([],)),
        "output_format": ("say it in output_config.format", ()),
    }

    model: str = Field(min_length=1)
    messages: Annotated[list[InputMessage], Field(fail_fast=True)] = Field(min_length=1)
    system: str | Annotated[list[TextBlock], Field(fail_fast=True)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None
    cache_control: Ignored = None


class MessageBody(ConversationBody):
    """A conversation to be answered."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None

    @property
    def shows_thinking(self) -> bool:
        """Whether the client wants to read what the model thinks."""
        return self.thinking is None or self.thinking.display != "omitted"


Body = TypeVar("Body", bound=ConversationBody)


def parse_conversation(model: type[Body], data: Mapping[str, Any]) -> Body:
    """The body as its model.

    Raises:
        Unsupported: It asks for something that is documented and not offered here.
        InvalidRequest: It is wrong.
    """
    return parse_body(model, supported(data, model.UNSUPPORTED, {"thread": ThreadUnsupported}))


def message_asking(
    body: MessageBody, data: Mapping[str, Any], hints: DispatchHints, conversation: Conversation
) -> Asking:
    """What an engine is asked for.

    Args:
        body: The body.
        data: What it was parsed from.
        hints: What the headers say.
        conversation: That of the body.

    Raises:
        InvalidRequest: The body is wrong.
    """
    fields, names = _shown(body, data, hints, conversation)
    _check_thinking(body, conversation)
    output = body.output_config or OutputConfig()
    guided = None if output.format is None else {"json_schema": output.format.json_schema}
    sampling = build(
        Sampling,
        names,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
        max_tokens=body.max_tokens,
        # A message that the context cuts short says so.
        clip_max_tokens=True,
        guided=guided,
    )
    choice = body.tool_choice
    request = build(
        GenerateRequest,
        names,
        **fields,
        sampling=sampling,
        tool_choice=None if choice is None else choice.for_engine(),
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        reasoning_effort=output.effort,
    )
    return Asking(request, names)


def tokenize_asking(
    body: ConversationBody, data: Mapping[str, Any], hints: DispatchHints, conversation: Conversation
) -> tuple[TokenizeRequest, Names]:
    """What a tokenizer is asked for, and what the caller called the fields of it; as `message_asking`."""
    fields, names = _shown(body, data, hints, conversation)
    return build(TokenizeRequest, names, **fields), names


def _shown(
    body: ConversationBody, data: Mapping[str, Any], hints: DispatchHints, conversation: Conversation
) -> tuple[dict[str, Any], Names]:
    """What the model is shown, as fields of a request of `engines.requests`, and what the caller called them."""
    tools, tool_names = tools_for_engine(body.tools or ())
    schema: Location = ("output_config", "format", "schema")
    names = Names(
        data,
        {
            ("stop",): ("stop_sequences",),
            ("guided",): schema,
            ("guided", "json_schema"): schema,
            ("reasoning_effort",): ("output_config", "effort"),
            ("resume",): None,
            **body.dispatch_names(hints),
            **tool_names,
            **conversation.names,
        },
    )
    fields = {
        "model": body.model,
        "messages": conversation.messages,
        "tools": tools or None,
        "thinking": None if body.thinking is None else body.thinking.for_engine(),
        "add_generation_prompt": not conversation.goes_on,
        "continue_final_message": conversation.goes_on,
        **body.dispatch(hints),
    }
    return fields, names


def _check_thinking(body: MessageBody, conversation: Conversation) -> None:
    if body.thinking is None or body.thinking.type == "disabled":
        return
    if conversation.goes_on:
        raise InvalidRequest(
            "messages: an answer that is begun cannot be thought about first: end with a message of the user, or "
            "leave thinking out.",
            param="messages",
        )
    if body.thinking.budget_tokens is not None and body.thinking.budget_tokens >= body.max_tokens:
        param = "thinking.budget_tokens"
        raise InvalidRequest(f"{param}: thinking is part of the answer; set max_tokens above it.", param=param)
