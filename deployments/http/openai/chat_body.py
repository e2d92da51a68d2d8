"""Body of `POST /v1/chat/completions`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.http.openai.generation_body import (
    GenerationBody,
    named,
    parse_generation,
    sampling,
)
from deployments.http.openai.guidance import guidance
from deployments.http.openai_common.metadata import Metadata
from deployments.http.server.asking import Asking
from deployments.http.server.body_parts import Ignored
from deployments.http.server.hints import DispatchHints
from deployments.http.server.json_guard import check_texts
from deployments.http.server.names import Location
from deployments.http.server.validation import build
from engines.errors import InvalidRequest
from engines.events import FinishReason
from engines.messages import Message, NamedToolChoice, Tool, ToolChoice
from engines.requests import GenerateRequest

_NEED_CONTENT = ("system", "developer", "user", "tool")


class ChatBody(GenerationBody):
    """A conversation to be answered."""

    # Messages and tools are lax inside, as chat templates are.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    UNSUPPORTED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationBody.UNSUPPORTED,
        "audio": (),
        "modalities": (["text"],),
        "web_search_options": (),
        "moderation": (),
        "functions": (),
        "function_call": (),
        "echo": (False,),
        "documents": (),
        "chat_template": (),
        "media_io_kwargs": (),
        "mm_processor_kwargs": (),
        "return_prompt_text": (False,),
    }

    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    store: bool | None = None

    prediction: Ignored = None
    verbosity: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    prompt_cache_options: Ignored = None

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """How a choice finishes, in OpenAI's words: the one call that it was held to ends with `stop`."""
        return "stop" if reason == "tool_calls" and isinstance(self.tool_choice, NamedToolChoice) else reason


class NoteBody(BaseModel):
    """What a client notes on a completion that is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    metadata: Metadata | None


def check_arguments(messages: Sequence[Message]) -> None:
    """Lets a conversation pass whose calls have arguments that cost no more to parse than a body may.

    Raises:
        InvalidRequest: They cost more; names those of a call.
    """
    check_texts(
        [
            (f"messages[{index}].tool_calls[{place}].function.arguments", call.function.arguments)
            for index, message in enumerate(messages)
            for place, call in enumerate(message.tool_calls or ())
        ]
    )


def parse_chat(data: Mapping[str, Any], hints: DispatchHints) -> tuple[ChatBody, Asking]:
    """The body, and what an engine is asked for because of it.

    Raises:
        InvalidRequest: It is wrong.
    """
    body = parse_generation(ChatBody, data)
    for index, message in enumerate(body.messages):
        if message.content is None and message.role in _NEED_CONTENT:
            param = f"messages[{index}].content"
            raise InvalidRequest(f"{param}: a message of role {message.role!r} needs content.", param=param)
    check_arguments(body.messages)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs: it needs logprobs to be true.", param="top_logprobs")
    table: dict[Location, Location | None] = {}
    overrides: dict[str, Any] = {}
    if body.top_logprobs is not None:
        table["logprobs",] = ("top_logprobs",)
    if body.max_completion_tokens is not None:
        table["max_tokens",] = ("max_completion_tokens",)
        overrides["max_tokens"] = body.max_completion_tokens
    if body.logprobs:
        overrides["logprobs"] = body.top_logprobs or 0
    constraint = guidance(data)
    names = named(body, data, hints, constraint, table)
    request = build(
        GenerateRequest,
        names,
        model=body.model,
        messages=body.messages,
        sampling=sampling(body, names, constraint, **overrides),
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        add_special_tokens=body.add_special_tokens,
        chat_template_kwargs=body.chat_template_kwargs,
        reasoning_effort=body.reasoning_effort,
        include_reasoning=body.include_reasoning,
        **body.dispatch(hints),
    )
    return body, Asking(request, names)
