"""What a router replica tells in `/metrics` of the instances: their state, their load, what they have answered."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from actors.directory.known_instance import Instance


def instance_metrics(instances: Iterable[Instance]) -> list[Metric]:
    """The metrics of these instances. Every replica sees the same ones, so they are not summed over replicas."""
    labels = ["instance", "model"]
    up = GaugeMetricFamily("penstock_instances", "Instances, by state.", labels=["model", "state"])
    running = GaugeMetricFamily("penstock_instance_running_requests", "Requests in the engine.", labels=labels)
    queued = GaugeMetricFamily("penstock_instance_queued_requests", "Requests that wait.", labels=labels)
    kv_use = GaugeMetricFamily("penstock_instance_kv_cache_use_ratio", "KV cache in use, 0 to 1.", labels=labels)
    # They begin anew with each incarnation, as a counter may.
    prompts = CounterMetricFamily("penstock_instance_prompt_tokens", "Tokens of prompts answered.", labels=labels)
    cached = CounterMetricFamily(
        "penstock_instance_cached_prompt_tokens", "Those of them that came from its prefix cache.", labels=labels
    )
    info = GaugeMetricFamily(
        "penstock_instance_info", "State and node of an instance.", labels=[*labels, "state", "node"]
    )
    waits = GaugeMetricFamily(
        "penstock_instance_waits_info", "Why an instance waits before it boots.", labels=[*labels, "reason"]
    )
    states: dict[tuple[str, str], int] = {}
    adapters = GaugeMetricFamily(
        "penstock_instance_adapter_info", "A LoRA adapter that an instance has loaded.", labels=[*labels, "adapter"]
    )
    sleeping = GaugeMetricFamily(
        "penstock_instance_sleeping", "Whether an instance sleeps, of those that do at times.", labels=labels
    )
    wake = GaugeMetricFamily(
        "penstock_instance_wake_seconds", "What waking takes: as it was the last time, or a guess.", labels=labels
    )
    for instance in instances:
        if instance.load.wake_s > 0:
            sleeping.add_metric([instance.id, instance.model], float(instance.load.is_asleep))
            wake.add_metric([instance.id, instance.model], instance.load.wake_s)
        for adapter in instance.load.adapters:
            adapters.add_metric([instance.id, instance.model, adapter], 1)
        state = (instance.model, instance.state.value)
        states[state] = states.get(state, 0) + 1
        running.add_metric([instance.id, instance.model], instance.load.running)
        queued.add_metric([instance.id, instance.model], instance.load.queued)
        kv_use.add_metric([instance.id, instance.model], instance.load.kv_use)
        prompts.add_metric([instance.id, instance.model], instance.load.prompt_tokens)
        cached.add_metric([instance.id, instance.model], instance.load.cached_tokens)
        info.add_metric([instance.id, instance.model, instance.state.value, instance.node], 1)
        if instance.actor is None and instance.detail:
            waits.add_metric([instance.id, instance.model, instance.detail], 1)
    for (model, state_name), count in states.items():
        up.add_metric([model, state_name], count)
    return [up, running, queued, kv_use, prompts, cached, info, waits, adapters, sleeping, wake]
