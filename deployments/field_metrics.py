"""The fleet's figures once more, by the names that others' dashboards and autoscalers look for.

vLLM's names, with `model_name`, and `engine` for the instance; and those of OpenTelemetry's conventions for generative
AI as Prometheus has them. Each is made of one of ours when `/metrics` is asked, so that they never differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric

_MODEL_NAME = {"model": "model_name"}
_OF_INSTANCE = {"model": "model_name", "instance": "engine"}
_GEN_AI_MODEL = {"model": "gen_ai_request_model"}
_PROVIDER = {"gen_ai_provider_name": "penstock"}
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/realtime": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""OpenTelemetry's word for what an endpoint does, where it has one."""


@dataclass(frozen=True, slots=True)
class _Alias:
    """Another name of one of our metrics.

    Attributes:
        name: It.
        labels: The names of the labels that are kept, by ours; the others are summed away.
        fixed: Labels that are the same everywhere.
    """

    name: str
    labels: Mapping[str, str]
    fixed: Mapping[str, str] = field(default_factory=dict)


_ALIASES: Mapping[str, tuple[_Alias, ...]] = {
    "penstock_prompt_tokens": (
        _Alias("vllm:prompt_tokens", _MODEL_NAME),
        _Alias("vllm:prefix_cache_queries", _MODEL_NAME),
    ),
    "penstock_cached_prompt_tokens": (_Alias("vllm:prefix_cache_hits", _MODEL_NAME),),
    "penstock_generation_tokens": (_Alias("vllm:generation_tokens", _MODEL_NAME),),
    "penstock_time_to_first_token_seconds": (
        _Alias("vllm:time_to_first_token_seconds", _MODEL_NAME),
        _Alias("gen_ai_server_time_to_first_token_seconds", _GEN_AI_MODEL, _PROVIDER),
    ),
    "penstock_time_per_output_token_seconds": (
        _Alias("vllm:request_time_per_output_token_seconds", _MODEL_NAME),
        _Alias("gen_ai_server_time_per_output_token_seconds", _GEN_AI_MODEL, _PROVIDER),
    ),
    "penstock_request_duration_seconds": (
        _Alias("vllm:e2e_request_latency_seconds", _MODEL_NAME),
        _Alias(
            "gen_ai_server_request_duration_seconds", {**_GEN_AI_MODEL, "endpoint": "gen_ai_operation_name"}, _PROVIDER
        ),
    ),
    "penstock_instance_running_requests": (_Alias("vllm:num_requests_running", _OF_INSTANCE),),
    "penstock_instance_queued_requests": (_Alias("vllm:num_requests_waiting", _OF_INSTANCE),),
    "penstock_instance_kv_cache_use_ratio": (_Alias("vllm:kv_cache_usage_perc", _OF_INSTANCE),),
}


def field_metrics(ours: Iterable[Metric]) -> list[Metric]:
    """Those of our metrics that others have names for, under these."""
    return [_renamed(metric, alias) for metric in ours for alias in _ALIASES.get(metric.name, ())]


def _renamed(metric: Metric, alias: _Alias) -> Metric:
    renamed = Metric(alias.name, metric.documentation, metric.type)
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in metric.samples:
        kept = {
            alias.labels.get(name, name): _OPERATIONS.get(value, value) if name == "endpoint" else value
            for name, value in sample.labels.items()
            if name in alias.labels or name == "le"
        }
        key = (alias.name + sample.name.removeprefix(metric.name), tuple(sorted({**kept, **alias.fixed}.items())))
        sums[key] = sums.get(key, 0.0) + sample.value
    for (name, labels), value in sums.items():
        renamed.add_sample(name, dict(labels), value)
    return renamed
