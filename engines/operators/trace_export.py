"""Where spans and measurements go: the providers that this process has, or an OTLP endpoint."""

from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import TracerProvider


def tracer_provider(endpoint: str | None) -> TracerProvider:
    """What makes spans: the process's own provider where it has set one up, else one that exports to the endpoint."""
    own = trace.get_tracer_provider()
    return own if isinstance(own, SdkTracerProvider) else _tracer_provider(endpoint)


def meter_provider(endpoint: str | None) -> MeterProvider:
    """What measures, found likewise."""
    own = metrics.get_meter_provider()
    return own if isinstance(own, SdkMeterProvider) else _meter_provider(endpoint)


@cache
def _tracer_provider(endpoint: str | None) -> TracerProvider:
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint is not None else None)
    provider = SdkTracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@cache
def _meter_provider(endpoint: str | None) -> MeterProvider:
    exporter = OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics" if endpoint is not None else None)
    return SdkMeterProvider([PeriodicExportingMetricReader(exporter)], resource=_resource())


def _resource() -> Resource:
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    return Resource.create({SERVICE_NAME: "penstock"}).merge(OTELResourceDetector().detect())
