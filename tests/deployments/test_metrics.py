import asyncio
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.directory.known_instance import Instance, InstanceState
from actors.loop_lag import LoopLag
from deployments.metrics import Metrics
from deployments.request_meter import RequestMeter
from engines.contract import Load
from engines.events import Usage
from engines.operators.breaker import BreakerTurned
from engines.operators.migration import Move
from engines.operators.pool import PutAside
from engines.operators.recovery import Recovered
from tests.deployments.memory_board import MemoryBoard


def served(metrics: Metrics, tokens: int = 3, status: int = 200) -> RequestMeter:
    meter = metrics.begin("/v1/chat/completions")
    meter.model = "demo"
    meter.first_token()
    meter.finish(Usage(prompt_tokens=5, completion_tokens=tokens, cached_tokens=2))
    metrics.end(meter, status)
    return meter


def values(text: str) -> dict[str, float]:
    """Each sample's value, by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


async def test_a_request_is_counted_once_in_every_figure() -> None:
    metrics = Metrics()
    served(metrics)
    figures = values(await metrics.text([]))
    chat = "endpoint=/v1/chat/completions,model=demo"
    assert figures[f"penstock_requests_total{{{chat},status=200}}"] == 1
    assert figures["penstock_prompt_tokens_total{model=demo}"] == 5
    assert figures["penstock_cached_prompt_tokens_total{model=demo}"] == 2
    assert figures["penstock_generation_tokens_total{model=demo}"] == 3
    assert figures["penstock_time_to_first_token_seconds_count{model=demo}"] == 1
    assert figures["penstock_time_per_output_token_seconds_count{model=demo}"] == 1
    assert figures[f"penstock_request_duration_seconds_count{{{chat}}}"] == 1
    assert figures["penstock_requests_in_flight{}"] == 0


async def test_figures_have_the_names_of_the_field_besides() -> None:
    metrics = Metrics()
    served(metrics)
    meter = metrics.begin("/v1/completions")
    meter.model = "demo"
    metrics.end(meter, 200)
    instance = Instance("demo-0", "demo", state=InstanceState.READY, load=Load(3, 1, 0.5))
    figures = values(await metrics.text([instance]))
    assert figures["vllm:prompt_tokens_total{model_name=demo}"] == 5
    assert figures["vllm:generation_tokens_total{model_name=demo}"] == 3
    assert figures["vllm:prefix_cache_queries_total{model_name=demo}"] == 5
    assert figures["vllm:prefix_cache_hits_total{model_name=demo}"] == 2
    assert figures["vllm:time_to_first_token_seconds_bucket{le=+Inf,model_name=demo}"] == 1
    # Of both endpoints together, as vLLM has it; and apart, as OpenTelemetry does.
    assert figures["vllm:e2e_request_latency_seconds_count{model_name=demo}"] == 2
    for operation in ("chat", "text_completion"):
        labels = f"gen_ai_operation_name={operation},gen_ai_provider_name=penstock,gen_ai_request_model=demo"
        assert figures[f"gen_ai_server_request_duration_seconds_count{{{labels}}}"] == 1
    assert figures["vllm:num_requests_running{engine=demo-0,model_name=demo}"] == 3
    assert figures["vllm:num_requests_waiting{engine=demo-0,model_name=demo}"] == 1
    assert figures["vllm:kv_cache_usage_perc{engine=demo-0,model_name=demo}"] == 0.5


async def test_an_error_is_counted_by_its_code() -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    metrics.end(meter, 429, "queue_full")
    figures = values(await metrics.text([]))
    key = "penstock_request_errors_total{code=queue_full,endpoint=/v1/chat/completions,model=}"
    assert figures[key] == 1


async def test_streams_that_broke_are_counted_by_what_became_of_them_and_why() -> None:
    metrics = Metrics()
    metrics.report("demo", Move("continued", pause_s=0.02, cause="ended"))
    metrics.report("demo", Move("failed", pause_s=30.0, cause="silent"))
    figures = values(await metrics.text([]))
    assert figures["penstock_migrations_total{cause=ended,model=demo,outcome=continued}"] == 1
    assert figures["penstock_migrations_total{cause=silent,model=demo,outcome=failed}"] == 1
    # What a reader noticed is the pause of those that went on.
    assert figures["penstock_migration_pause_seconds_sum{model=demo}"] == 0.02


async def test_what_operators_report_is_counted() -> None:
    metrics = Metrics()
    metrics.report("demo", Recovered("continued"))
    metrics.report("mix", PutAside("gpt", "The key was refused."))
    metrics.report("gpt", BreakerTurned("gpt", "open"))
    metrics.report("llama", BreakerTurned("llama", "open"))
    metrics.report("llama", BreakerTurned("llama", "closed"))
    figures = values(await metrics.text([]))
    assert figures["penstock_recoveries_total{model=demo,outcome=continued}"] == 1
    assert figures["penstock_pool_members_put_aside_total{member=gpt,model=mix}"] == 1
    assert [figures[f"penstock_breakers_open{{model={model}}}"] for model in ("gpt", "llama")] == [1, 0]


async def test_tokens_count_while_a_request_runs() -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    meter.model = "demo"
    seen = []
    for tokens in (1, 10, 20):
        meter.tokens = tokens
        figures = values(await metrics.text([]))
        assert figures["penstock_requests_in_flight{}"] == 1
        seen.append(figures["penstock_generation_tokens_total{model=demo}"])
    meter.finish(Usage(5, 21))
    metrics.end(meter, 200)
    seen.append(values(await metrics.text([]))["penstock_generation_tokens_total{model=demo}"])
    assert seen == [1, 10, 20, 21]


async def test_instances_are_not_summed_over_replicas() -> None:
    board = MemoryBoard()
    instances = [
        Instance("demo-0", "demo", state=InstanceState.READY, load=Load(3, 1, 0.5, adapters=("sql",))),
        Instance("demo-1", "demo", state=InstanceState.STARTING),
        Instance("demo-2", "demo", state=InstanceState.DRAINING, load=Load(is_asleep=True, wake_s=2.5)),
    ]
    one, other = Metrics("one", board), Metrics("other", board)
    await one.text(instances)
    figures = values(await other.text(instances))
    assert figures["penstock_instances{model=demo,state=ready}"] == 1
    assert figures["penstock_instances{model=demo,state=starting}"] == 1
    assert figures["penstock_instance_running_requests{instance=demo-0,model=demo}"] == 3
    assert figures["penstock_instance_queued_requests{instance=demo-0,model=demo}"] == 1
    assert figures["penstock_instance_kv_cache_use_ratio{instance=demo-0,model=demo}"] == 0.5
    assert figures["penstock_instance_adapter_info{adapter=sql,instance=demo-0,model=demo}"] == 1
    assert figures["penstock_instance_sleeping{instance=demo-2,model=demo}"] == 1
    assert figures["penstock_instance_wake_seconds{instance=demo-2,model=demo}"] == 2.5
    assert "penstock_instance_sleeping{instance=demo-0,model=demo}" not in figures


@pytest.mark.parametrize("model", ['we"ird', "sla/sh", "new\nline", "back\\slash", "\u2603"])
async def test_any_model_name_is_exposed(model: str) -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    meter.model = model
    metrics.end(meter, 200)
    assert any(model in key for key in values(await metrics.text([])))


async def test_the_time_per_token_is_that_of_one_choice() -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    meter.model, meter.choices = "demo", 4
    meter.first_token()
    meter.finish(Usage(completion_tokens=44))
    meter.finished_s = meter.first_token_s + 1.0
    metrics.end(meter, 200)
    assert values(await metrics.text([]))["penstock_time_per_output_token_seconds_sum{model=demo}"] == pytest.approx(
        0.1
    )


async def test_the_lag_of_every_process_is_told() -> None:
    metrics = Metrics("router-0")
    metrics.lag = lag = LoopLag()
    lag.start()
    time.sleep(0.2)  # noqa: ASYNC251 - what a loop must not do
    await asyncio.sleep(0.01)
    figures = values(await metrics.text([Instance("demo-0", "demo", load=Load(lag_s=0.5))]))
    lag.stop()
    assert figures["penstock_event_loop_lag_seconds{process=router-0}"] >= 0.15
    assert figures["penstock_event_loop_lag_seconds{process=demo-0}"] == 0.5
