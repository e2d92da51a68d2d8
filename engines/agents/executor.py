"""What an agent loop calls: one chat after another, with defaults, and what it wants kept of each answer."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from engines.agents.completion_client import CompletionClient
from engines.agents.completion_model import ChatRequest, CompletionModel, bound
from engines.completion import CompletedToolCall, Completion, CompletionBuilder
from engines.context import Context
from engines.events import Event, FinishReason, Usage
from engines.messages import ToolChoice
from engines.requests import GenerateRequest, Guided, RequestModel, Session, Word


class ChatOptions(RequestModel):
    """How to ask, and what to keep of the answer. What is None is as the defaults have it, or else the request.

    Attributes:
        temperature, top_p, max_tokens, stop, seed, guided: As in `engines.requests.Sampling`.
        tool_choice, parallel_tool_calls, reasoning_effort, session, priority: As in `GenerateRequest`.
        timeout_s: Seconds for the whole answer; it fails with Timeout then.
        capture_usage: Keep how many tokens it took.
        capture_content: Keep the text.
        capture_reasoning: Keep the reasoning.
        capture_tool_calls: Keep the tool calls.
        capture_raw_body: Keep every event as it came.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[Word] | None = None
    seed: int | None = None
    guided: Guided | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    session: Session | None = None
    priority: int | None = None
    timeout_s: float | None = Field(None, gt=0)
    capture_usage: bool | None = None
    capture_content: bool | None = None
    capture_reasoning: bool | None = None
    capture_tool_calls: bool | None = None
    capture_raw_body: bool | None = None

    def over(self, defaults: "ChatOptions") -> "ChatOptions":
        """These options, and those of the defaults where these say nothing."""
        said = {name: value for name in ChatOptions.model_fields if (value := getattr(self, name)) is not None}
        return defaults.model_copy(update=said)


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A whole answer, as far as it was to be kept; None: it was not.

    Attributes:
        model: Name of the model that answered.
        engine: Name of the engine that answered.
        reason: Why it ended.
        content: Its text.
        reasoning: The model's reasoning.
        tool_calls: The calls that the model wants made.
        usage: Tokens of the request.
        raw_body: Every event as it came.
    """

    model: str
    engine: str
    reason: FinishReason
    content: str | None
    reasoning: str | None
    tool_calls: tuple[CompletedToolCall, ...] | None
    usage: Usage | None
    raw_body: tuple[Event, ...] | None


class LlmExecutor:
    """Runs chats.

    Args:
        client: The way to the models.
        options: Defaults; without them everything but the raw body is kept.
        name: For logs; None: the client's.

    Attributes:
        name: As given.
    """

    def __init__(self, client: CompletionClient, options: ChatOptions | None = None, name: str | None = None) -> None:
        self.name = name if name is not None else client.name
        self._client = client
        self._options = (options or ChatOptions()).over(_KEEPS)

    async def exec_chat_response(
        self, model: str | CompletionModel, request: ChatRequest, options: ChatOptions | None = None
    ) -> ChatResponse:
        """The whole answer. Raises a PenstockError where there is none.

        Args:
            model: The model's handle, or its name.
            request: What is asked.
            options: Override the defaults, field by field.
        """
        response: ChatResponse | None = None
        async for event in self.exec_chat_stream_events(model, request, options):
            if isinstance(event, ChatResponse):
                response = event
        assert response is not None  # a stream that does not end well raises
        return response

    async def exec_chat_stream_events(
        self, model: str | CompletionModel, request: ChatRequest, options: ChatOptions | None = None
    ) -> AsyncIterator[Event | ChatResponse]:
        """The events of the answer, from `Started` to `Finished`, and then what was kept of them.

        Leaving the iterator kills the request. Takes what `exec_chat_response` takes, and raises what it raises.
        """
        chosen = (options or ChatOptions()).over(self._options)
        handle = self._client.model(model) if isinstance(model, str) else model
        context = Context()
        if chosen.timeout_s is not None:
            context.deadline_s = time.monotonic() + chosen.timeout_s
        builder = CompletionBuilder()
        raw: list[Event] = []
        async with await handle.chat_stream(_asked(request, handle.model, chosen), context) as stream:
            async for event in stream:
                if chosen.capture_raw_body:
                    raw.append(event)
                completion = builder.add(event)
                yield event
                if completion is not None:
                    yield _kept(completion, chosen, tuple(raw))


_KEEPS = ChatOptions(
    capture_usage=True, capture_content=True, capture_reasoning=True, capture_tool_calls=True, capture_raw_body=False
)
_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed", "guided")
_REQUEST = ("tool_choice", "parallel_tool_calls", "reasoning_effort", "session", "priority")


def _asked(request: ChatRequest, model: str, options: ChatOptions) -> GenerateRequest:
    asked = bound(request, model)
    sampling: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(options, name)) is not None}
    changes: dict[str, Any] = {name: value for name in _REQUEST if (value := getattr(options, name)) is not None}
    if sampling:
        changes["sampling"] = {**asked.sampling.model_dump(exclude_unset=True), **sampling}
    if not changes:
        return asked
    # Validated as a whole: a copy with changes would take what no request may say.
    return bound({**{name: getattr(asked, name) for name in asked.model_fields_set}, **changes}, model)


def _kept(completion: Completion, options: ChatOptions, raw: tuple[Event, ...]) -> ChatResponse:
    choice = completion.choices[0]
    return ChatResponse(
        model=completion.model,
        engine=completion.engine,
        reason=choice.reason,
        content=choice.text if options.capture_content else None,
        reasoning=choice.reasoning if options.capture_reasoning else None,
        tool_calls=choice.tool_calls if options.capture_tool_calls else None,
        usage=completion.usage if options.capture_usage else None,
        raw_body=raw if options.capture_raw_body else None,
    )
