"""Each request is one span, by the conventions, whatever becomes of it and of the exporter."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from engines.call_requests import TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.errors import Cancelled, InstanceLost, NoInstance, PenstockError
from engines.operators.link import link
from engines.operators.trace import Trace
from engines.operators.trace_export import tracer_provider
from engines.operators.trace_options import TraceOptions
from engines.pooling_requests import ScoreRequest
from engines.requests import GenerateRequest, Sampling, Session
from engines.scripted.script import Hang
from tests.contract.asking import Recorder
from tests.engines.operators.conftest import playing

ASKED = GenerateRequest(
    model="m",
    messages=[{"role": "user", "content": "secret question"}],
    sampling=Sampling(temperature=0.5, max_tokens=40, stop=["."], seed=7),
    session=Session(id="s"),
)


class Traced:
    """A Trace whose spans and measurements stay here."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        spans = TracerProvider()
        spans.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.trace = Trace(TraceOptions(**options), spans, MeterProvider([self.reader]))

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span

    def measured(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        found = [
            metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
        ]
        return {metric.name: list(metric.data.data_points) for metric in found}


async def test_a_span_says_what_was_asked_and_what_came_of_it_and_no_content() -> None:
    traced = Traced()
    engine = await playing("e-1", ["secret ", "answer"])
    assert (await collect(link(traced.trace, engine).generate(ASKED, Context("id-1")))).text == "secret answer"
    span = traced.span
    assert (span.name, span.kind, span.status.status_code) == ("chat m", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "penstock",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 40,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": (".",),
        "gen_ai.conversation.id": "s",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": span.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": len("secret answer"),
        "gen_ai.usage.cache_read.input_tokens": 0,
        "penstock.instance": "e-1",
        "penstock.request.id": "id-1",
    }
    assert "secret" not in span.to_json()


async def test_measurements_have_the_conventions_names() -> None:
    traced = Traced()
    await collect(link(traced.trace, await playing("e", ["one ", "two"])).generate(ASKED, Context()))
    measured = traced.measured()
    assert set(measured) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }
    assert {point.attributes["gen_ai.token.type"]: point.sum for point in measured["gen_ai.client.token.usage"]}[
        "output"
    ] == len("one two")


async def test_content_is_there_when_it_is_asked_for_and_is_bounded() -> None:
    traced = Traced(content=True)
    engine = await playing("e", ["the ", "answer"])
    await collect(link(traced.trace, engine).generate(ASKED, Context()))
    attributes = traced.span.attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"]))[0]["content"] == "secret question"
    assert json.loads(str(attributes["gen_ai.output.messages"]))[0]["content"] == "the answer"
    short = Traced(content=True, content_bytes=9)
    await collect(link(short.trace, engine).generate(ASKED, Context()))
    assert len(str((short.span.attributes or {})["gen_ai.input.messages"])) == 9


@pytest.mark.parametrize("script", [[NoInstance("None is there.")], ["one ", InstanceLost("It is gone.")]])
async def test_an_error_is_the_spans_too(script: list[Any]) -> None:
    traced, error = Traced(), script[-1]
    with pytest.raises(PenstockError):
        await collect(link(traced.trace, await playing("e", script)).generate(ASKED, Context()))
    span = traced.span
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error.message)
    assert (span.attributes or {})["error.type"] == error.code
    (point,) = traced.measured()["gen_ai.client.operation.duration"]
    assert point.attributes["error.type"] == error.code


async def test_a_caller_that_leaves_is_no_error() -> None:
    traced, recorder, context = Traced(), Recorder(), Context()
    await link(traced.trace, await playing("e", ["one ", Hang()])).submit(ASKED, context, recorder)
    context.kill()
    await recorder.over()
    assert isinstance(recorder.error, Cancelled)
    assert (traced.span.status.status_code, (traced.span.attributes or {})["error.type"]) == (
        StatusCode.UNSET,
        "cancelled",
    )


async def test_it_is_below_the_callers_span() -> None:
    traced = Traced()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await collect(link(traced.trace, await playing("e", ["one"])).generate(ASKED, Context(traceparent=parent)))
    span = traced.span
    assert span.parent is not None and span.context is not None
    assert (f"{span.parent.span_id:x}", f"{span.context.trace_id:032x}") == (
        "b7ad6b7169203331",
        "0af7651916cd43dd8448eb211c80319c",
    )


async def test_calls_are_traced_likewise() -> None:
    traced = Traced()
    await link(traced.trace, await playing("e", ["one"])).tokenize(TokenizeRequest(model="m", prompt="ab"))
    assert traced.span.name == "tokenize m"
    traced = Traced()
    scoring = link(traced.trace, await playing("e", ["one"]))
    scores = await scoring.score(ScoreRequest(model="m", queries=["ab"], documents=["a", "b"]))
    assert traced.span.name == "score m"
    assert (traced.span.attributes or {})["gen_ai.usage.input_tokens"] == scores.prompt_tokens


class Failing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionError("The collector is down.")


class Raising(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("A bug of the user's.")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("A bug of the user's.")


@pytest.mark.parametrize("processor", [SimpleSpanProcessor(Failing()), Raising()])
async def test_whatever_fails_in_tracing_no_stream_hears_of_it(processor: SpanProcessor) -> None:
    spans = TracerProvider()
    spans.add_span_processor(processor)
    trace = Trace(None, spans, MeterProvider())
    engine = await playing("e", ["one ", "two"])
    assert (await collect(link(trace, engine).generate(ASKED, Context()))).text == "one two"


async def test_spans_go_to_an_otlp_endpoint() -> None:
    got: list[str] = []

    async def take(request: web.Request) -> web.Response:
        got.append(request.path)
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    endpoint = f"http://127.0.0.1:{port}"
    trace = Trace(TraceOptions(endpoint=endpoint), meters=MeterProvider())
    await collect(link(trace, await playing("e", ["one"])).generate(ASKED, Context()))
    provider = tracer_provider(endpoint)
    assert isinstance(provider, TracerProvider)
    await asyncio.to_thread(provider.force_flush)
    assert got == ["/v1/traces"]
    await runner.cleanup()
