"""Bodies of `POST /v1/responses` and `.../input_tokens`, and what an engine is asked for because of them.

Types are checked here; ranges are checked by `engines.requests`, whose errors come back in the caller's names.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from deployments.http.openai_common.metadata import Label, Metadata
from deployments.http.responses.conversation import Conversation
from deployments.http.responses.items import OF_HOSTED_TOOLS, Items
from deployments.http.responses.reasoning import ReasoningBody
from deployments.http.responses.tools import HOSTED, CustomTool, ToolChoiceBody, Tools, tools_for_engine
from deployments.http.server.asking import Asking
from deployments.http.server.body_parts import Ignored, Refusals, Strict, supported, type_of
from deployments.http.server.hints import DispatchFields, DispatchHints
from deployments.http.server.names import Location, Names
from deployments.http.server.validation import build, parse_body
from engines.call_requests import TokenizeRequest
from engines.errors import InvalidRequest, Unsupported
from engines.requests import GenerateRequest, Sampling, Thinking

_HOSTING = "it is about OpenAI's own servers; leave it out"
_HOSTED = "runs on OpenAI's servers alone"
_IMAGE: tuple[str, tuple[Any, ...]] = (
    _HOSTING,
    ({}, {"context_compression": "auto"}, {"context_compression": "disabled"}),
)
_SERVICE_TIER = ("there is one tier here; leave it out", ("auto", "default"))


class FormatBody(Strict):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _a_schema_where_there_is_one(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("a schema belongs to the type 'json_schema', and to no other")
        return self

    def for_engine(self) -> dict[str, Any] | None:
        """The same as `engines.requests.Guided` takes it; None: whatever the model says."""
        if self.type == "text":
            return None
        return {"json_object": True} if self.json_schema is None else {"json_schema": self.json_schema}


class TextBody(Strict):
    """What the answer must look like, and how long-winded it is, which changes nothing."""

    format: FormatBody | None = None
    verbosity: Ignored = None


class StreamOptions(Strict):
    """`include_obfuscation`: OpenAI's padding against traffic analysis; none is sent either way."""

    include_obfuscation: bool | None = None


Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""What a client may ask for besides. What is of tools that do not run here is never there."""


class InputBody(DispatchFields):
    """A conversation.

    `UNSUPPORTED` names the documented fields that cannot be honoured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    UNSUPPORTED: ClassVar[Refusals] = {}

    model: str = Field(min_length=1)
    input: str | Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the request is in; None: none."""
        return None


class ConversationBody(Strict):
    """A conversation that is stored, by its id."""

    id: str


class ContextBody(InputBody):
    """What a model is shown."""

    UNSUPPORTED: ClassVar[Refusals] = {
        "truncation": ("nothing is left out of a conversation here; shorten it before it is sent", ("disabled",)),
        "personality": ("say it in instructions", ()),
    }

    conversation: str | ConversationBody | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the request is in; None: none."""
        given = self.conversation
        return given.id if isinstance(given, ConversationBody) else given


class CompactBody(InputBody):
    """A conversation to be made short."""

    UNSUPPORTED: ClassVar[Refusals] = {"image": _IMAGE, "service_tier": _SERVICE_TIER}

    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None


class ResponseBody(ContextBody):
    """A conversation to be answered."""

    UNSUPPORTED: ClassVar[Refusals] = {
        **ContextBody.UNSUPPORTED,
        "access_programs": (_HOSTING, ()),
        "context_management": ("nothing is left out of a conversation here; shorten it before it is sent", ([],)),
        "image": _IMAGE,
        "moderation": (_HOSTING, ()),
        "prompt": ("no templates of prompts are kept here; send the text itself", ()),
        "service_tier": _SERVICE_TIER,
    }

    background: bool | None = None
    include: Annotated[list[Includable], Field(fail_fast=True)] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    user: Label | None = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None

    @property
    def encrypts(self) -> bool:
        """Whether the client wants its reasoning encrypted, too."""
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def custom_tools(self) -> frozenset[str]:
        """Names of its custom tools."""
        return frozenset(tool.name for tool in self.tools or () if isinstance(tool, CustomTool))

    def echo(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What was asked for, as the response says it.

        Args:
            data: What the body was parsed from.
        """
        text = data.get("text") or {}
        same = ("instructions", "max_output_tokens", "max_tool_calls", "temperature", "top_p")
        labels = ("prompt_cache_key", "safety_identifier", "user")
        return {
            "model": self.model,
            "background": bool(self.background),
            "conversation": None if self.conversation_id is None else {"id": self.conversation_id},
            "previous_response_id": self.previous_response_id,
            **{name: data.get(name) for name in same},
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": None, "summary": None, **(data.get("reasoning") or {})},
            "service_tier": "default",
            "text": {**text, "format": text.get("format") or {"type": "text"}},
            "tool_choice": data.get("tool_choice") or "auto",
            "tools": data.get("tools") or [],
            "top_logprobs": self.top_logprobs or 0,
            "truncation": "disabled",
            **{name: data.get(name) for name in labels},
        }


Body = TypeVar("Body", bound=InputBody)


def parse_context(model: type[Body], data: Mapping[str, Any]) -> Body:
    """The body as its model.

    Raises:
        Unsupported: It asks for something that is documented and not offered here.
        InvalidRequest: It is wrong.
    """
    fields = supported(data, model.UNSUPPORTED)
    _refuse_hosted(data, "tools", HOSTED, f"it {_HOSTED}; define a function, and run it yourself")
    refuse_hosted_items(data, "input")
    if type_of(data.get("tool_choice")) in HOSTED:
        raise Unsupported(f"tool_choice: this tool {_HOSTED}.", param="tool_choice")
    body = parse_body(model, fields)
    if body.conversation_id is not None and body.previous_response_id is not None:
        message = "conversation: it says what was said before, as previous_response_id does; give one of the two."
        raise InvalidRequest(message, param="conversation")
    if not body.input and body.previous_response_id is None and body.conversation_id is None:
        raise InvalidRequest("input: give a text, or at least one item.", param="input")
    return body


def refuse_hosted_items(data: Mapping[str, Any], name: str) -> None:
    """Refuses items of OpenAI's own tools in the field of that name.

    Raises:
        Unsupported: There is one; names it.
    """
    _refuse_hosted(data, name, OF_HOSTED_TOOLS, f"it is of a tool that {_HOSTED}; leave it out")


def _refuse_hosted(data: Mapping[str, Any], name: str, hosted: frozenset[str], why: str) -> None:
    given = data.get(name)
    for index, part in enumerate(given if isinstance(given, list) else ()):
        kind = type_of(part)
        if kind in hosted:
            param = f"{name}[{index}].type"
            raise Unsupported(f"{param}: {kind}: {why}.", param=param)


def response_asking(
    body: ResponseBody, data: Mapping[str, Any], hints: DispatchHints, conversation: Conversation
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
    tools = tools_for_engine(body.tools or (), body.tool_choice)
    fields, names = _shown(body, data, hints, conversation, tools.names)
    wants_logprobs = body.top_logprobs or "message.output_text.logprobs" in (body.include or ())
    look = None if body.text is None else body.text.format
    sampling = build(
        Sampling,
        names,
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_output_tokens,
        # A response that the context cuts short says so.
        clip_max_tokens=True,
        logprobs=body.top_logprobs or 0 if wants_logprobs else None,
        guided=None if look is None else look.for_engine(),
    )
    request = build(
        GenerateRequest,
        names,
        **fields,
        tools=tools.tools or None,
        sampling=sampling,
        tool_choice=tools.choice,
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
    )
    return Asking(request, names)


def tokenize_asking(
    body: ContextBody, data: Mapping[str, Any], hints: DispatchHints, conversation: Conversation
) -> tuple[TokenizeRequest, Names]:
    """What a tokenizer is asked for, and what the caller called the fields of it; as `response_asking`."""
    tools = tools_for_engine(body.tools or (), body.tool_choice)
    fields, names = _shown(body, data, hints, conversation, tools.names)
    effort = None if body.reasoning is None else body.reasoning.effort
    # Chat templates are told of an effort as of thinking that is switched on or off.
    thinking = None if effort is None else Thinking(enabled=effort != "none")
    return build(TokenizeRequest, names, **fields, tools=tools.tools or None, thinking=thinking), names


def _shown(
    body: ContextBody,
    data: Mapping[str, Any],
    hints: DispatchHints,
    conversation: Conversation,
    tool_names: Mapping[Location, Location | None],
) -> tuple[dict[str, Any], Names]:
    """Fields of a request of `engines.requests` that any has, and what the caller called all of them."""
    look: Location = ("text", "format")
    names = Names(
        data,
        {
            ("guided",): look,
            ("guided", "json_schema"): (*look, "schema"),
            ("guided", "json_object"): look,
            ("logprobs",): ("top_logprobs",),
            ("max_tokens",): ("max_output_tokens",),
            ("reasoning_effort",): ("reasoning", "effort"),
            ("resume",): None,
            **body.dispatch_names(hints),
            **tool_names,
            **conversation.names,
        },
    )
    return {"model": body.model, "messages": conversation.messages, **body.dispatch(hints)}, names
