"""Trace: a span and measurements of each request, by OpenTelemetry's conventions for generative AI (`gen_ai.*`).

What it exports goes through OpenTelemetry's SDK, in a thread of the SDK's own: an exporter that fails or hangs costs
spans, and never touches a stream.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engines.call_requests import Answer, CallRequest, ModelAnswer, Request
from engines.completion import Completion, CompletionBuilder
from engines.context import Context
from engines.errors import Cancelled, PenstockError
from engines.events import Event, Finished, Started, Usage
from engines.operators.operator import Transparent
from engines.operators.trace_export import meter_provider, tracer_provider
from engines.operators.trace_options import TraceOptions
from engines.requests import GenerateRequest
from engines.sink import Sink

logger = logging.getLogger(__name__)

_SCOPE = "penstock"
# The bounds of buckets that the conventions ask for.
_SECONDS = tuple(0.01 * 2**power for power in range(14))
_TOKENS = tuple(float(4**power) for power in range(14))


class Trace(Transparent):
    """Makes a span of each request, and measures it.

    The span is below the caller's own where the request came with one (`Context.traceparent`).

    Args:
        options: What is traced, and where it goes.
        spans: Makes the spans; None: as the options say.
        meters: Measures; None: as the options say.
    """

    def __init__(
        self,
        options: TraceOptions | None = None,
        spans: TracerProvider | None = None,
        meters: MeterProvider | None = None,
    ) -> None:
        self.options = options or TraceOptions()
        self._tracer = (spans or tracer_provider(self.options.endpoint)).get_tracer(_SCOPE)
        meter = (meters or meter_provider(self.options.endpoint)).get_meter(_SCOPE)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a request.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a request.", explicit_bucket_boundaries_advisory=_TOKENS
        )
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From the request to its first piece.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._per_token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Mean time of a token after the first piece.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises what the inner engine raises."""
        stream = _TracedStream(self, self._begin(request, context), request, sink)
        try:
            await self.inner.submit(request, context, stream)
        except PenstockError as error:
            stream.over(error)
            raise
        except BaseException:
            stream.over(context.cancellation())
            raise

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises what the inner engine raises."""
        began_s = time.monotonic()
        span = self._begin(request, context)
        error: PenstockError | None = context.cancellation()
        usage: Usage | None = None
        try:
            answer = await self.inner.call(request, context)
            error = None
            if isinstance(answer, ModelAnswer):
                usage = Usage(prompt_tokens=answer.prompt_tokens)
            return answer
        except PenstockError as raised:
            error = raised
            raise
        finally:
            self.end(span, request, began_s, None, error, usage, {})

    def end(
        self,
        span: Span | None,
        request: Request,
        began_s: float,
        first_s: float | None,
        error: PenstockError | None,
        usage: Usage | None,
        attributes: Mapping[str, Any],
    ) -> None:
        """Ends a span, and measures its request.

        Args:
            span: The span.
            request: What was asked.
            began_s: When, on the monotonic clock.
            first_s: When the first piece of the answer came; None: none did.
            error: What it ended with; None: it ended well.
            usage: Its tokens, where they are known.
            attributes: What else the span is to say.
        """
        with _Guard():
            now_s = time.monotonic()
            labels = _labels(request)
            if error is not None:
                labels["error.type"] = error.code
            self._duration.record(now_s - began_s, labels)
            if first_s is not None:
                self._first_token.record(first_s - began_s, labels)
            if usage is not None:
                self._tokens.record(usage.prompt_tokens, labels | {"gen_ai.token.type": "input"})
                if usage.completion_tokens:
                    self._tokens.record(usage.completion_tokens, labels | {"gen_ai.token.type": "output"})
                if first_s is not None and usage.completion_tokens > 1:
                    self._per_token.record((now_s - first_s) / (usage.completion_tokens - 1), labels)
            if span is None:
                return
            if usage is not None:
                span.set_attributes(_usage(usage))
            span.set_attributes(dict(attributes))
            if error is not None:
                span.set_attribute("error.type", error.code)
                if not isinstance(error, Cancelled):
                    span.set_status(Status(StatusCode.ERROR, error.message))
            span.end()

    def _begin(self, request: Request, context: Context) -> Span | None:
        with _Guard():
            labels = _labels(request)
            parent = None
            if context.traceparent:
                parent = TraceContextTextMapPropagator().extract({"traceparent": context.traceparent})
            name = f"{labels['gen_ai.operation.name']} {request.model}"
            attributes = labels | _asked(request) | {"penstock.request.id": context.id}
            if self.options.content and isinstance(request, GenerateRequest):
                attributes["gen_ai.input.messages"] = _cut(_input(request), self.options.content_bytes)
            return self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes)
        return None


class _TracedStream:
    """Passes a stream on, and ends its span with it."""

    __slots__ = ("_began_s", "_builder", "_first_s", "_request", "_sink", "_span", "_started", "_trace")

    def __init__(self, trace: Trace, span: Span | None, request: GenerateRequest, sink: Sink) -> None:
        self._trace: Trace | None = trace
        self._span = span
        self._request = request
        self._sink = sink
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._started: Started | None = None
        self._builder = CompletionBuilder() if trace.options.content else None

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        completion = self._builder.add(event) if self._builder is not None else None
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Finished):
            self.over(None, event, completion)
        elif self._first_s is None:
            self._first_s = time.monotonic()
        self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self.over(error)
        self._sink.fail(error)

    def over(
        self, error: PenstockError | None, finished: Finished | None = None, completion: Completion | None = None
    ) -> None:
        """Ends the span. Idempotent."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        attributes: dict[str, Any] = {}
        if self._started is not None:
            attributes["gen_ai.response.model"] = self._started.model
            attributes["penstock.instance"] = self._started.engine
        if finished is not None:
            attributes["gen_ai.response.finish_reasons"] = finished.reasons
        if completion is not None:
            attributes["gen_ai.output.messages"] = _cut(_output(completion), trace.options.content_bytes)
        usage = finished.usage if finished is not None else None
        trace.end(self._span, self._request, self._began_s, self._first_s, error, usage, attributes)


class _Guard(AbstractContextManager[None]):
    """Keeps what goes wrong in tracing from the request: a user's span processor may raise whatever it likes."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        logger.warning("A request could not be traced: %s: %s", type(error).__name__, error)
        return True


def _operation(request: Request) -> str:
    if isinstance(request, GenerateRequest):
        return "chat" if request.messages is not None else "text_completion"
    return request.operation


def _labels(request: Request) -> dict[str, Any]:
    """What spans and measurements both say of a request."""
    return {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": _SCOPE,
        "gen_ai.request.model": request.model,
    }


def _asked(request: Request) -> dict[str, Any]:
    said: dict[str, Any] = {"gen_ai.conversation.id": request.session.id if request.session is not None else None}
    if isinstance(request, GenerateRequest):
        sampling = request.sampling
        said |= {
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.stop_sequences": tuple(sampling.stop) or None,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
            "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
            "gen_ai.request.choice.count": sampling.n if sampling.n > 1 else None,
        }
    return {name: value for name, value in said.items() if value is not None}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }


def _input(request: GenerateRequest) -> str:
    if request.messages is None:
        return json.dumps(request.prompt if request.prompt is not None else request.prompt_token_ids)
    return json.dumps([message.model_dump(mode="json", exclude_unset=True) for message in request.messages])


def _output(completion: Completion) -> str:
    return json.dumps(
        [
            {
                "role": "assistant",
                "content": choice.text,
                "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in choice.tool_calls],
                "finish_reason": choice.reason,
            }
            for choice in completion.choices
        ]
    )


def _cut(text: str, limit: int) -> str:
    """All of it is ASCII: a character is a byte."""
    return text[:limit]
