import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from actors.directory.known_instance import Instance, InstanceState
from clusters.boot_screen import instance_table
from clusters.status import parse_metrics, view
from deployments.cluster_nodes import ClusterNodes, Node
from deployments.metrics import Metrics
from deployments.router_addresses import RouterAddress, RouterInfo
from deployments.routing.held_requests import HeldRequests
from deployments.scaling.bulletin import KEY
from deployments.scaling.scaler import Decision
from deployments.scaling.work_rates import Rates
from deployments.scaling_metrics import SILENT_AFTER_S, PolicyNews, cold_starts, held_requests, target_instances
from engines.contract import Load
from engines.events import Usage
from tests.clock import Clock


async def test_it_reads_what_the_ingress_writes() -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    meter.model = "demo"
    meter.first_token()
    meter.finish(Usage(prompt_tokens=3, completion_tokens=40))
    metrics.end(meter, 200)
    metrics.begin("/v1/chat/completions").model = "demo"
    load = Load(3, 2, 0.5, prompt_tokens=400, cached_tokens=100, is_asleep=True, wake_s=2.5)
    instances = [
        Instance("demo-2", "demo", node="n2", state=InstanceState.DRAINING),
        Instance(
            "demo-1",
            "demo",
            node="n1",
            state=InstanceState.READY,
            load=load,
        ),
    ]
    scrape = parse_metrics(await metrics.text(instances), at_s=1.0)
    first, second = scrape.rows
    assert (first.id, first.state, first.node) == ("demo-1", InstanceState.READY, "n1")
    assert (first.running, first.queued, first.kv_use) == (3, 2, 0.5)
    assert (first.cached_share, second.cached_share) == (0.25, None)
    assert (first.sleeps, second.sleeps) == (True, False)
    console = Console(file=io.StringIO(), width=200)
    console.print(instance_table(scrape.rows, loads=True))
    assert "ready, sleeps" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (second.id, second.state) == ("demo-2", InstanceState.DRAINING)
    assert scrape.tokens == {"demo": 40.0}
    assert scrape.in_flight == 1


async def test_it_reads_what_is_told_of_autoscaling() -> None:
    metrics, held = Metrics(), {"demo": HeldRequests("demo", 9, 99), "other": HeldRequests("other", 9, 99)}
    metrics.add(held_requests(held))
    metrics.add(cold_starts(held), is_cumulative=True)
    decision = Decision(3, 2, 1.5, 4.0, Rates(800, 200), "load")
    posted = {KEY: json.dumps({"engine-demo": asdict(decision), "engine-gone": asdict(decision)}).encode()}
    clock = Clock()

    async def read(prefix: str) -> dict[str, bytes]:
        return {key: value for key, value in posted.items() if key.startswith(prefix)}

    news = PolicyNews({"engine-demo": "demo"}, read, clock)
    metrics.fleet_wide = lambda: [target_instances({"fixed": 2, **news.targets()}), *news.families()]
    await news.hear()
    assert news.measured() == {}
    held["demo"].cold_starts = 1
    with held["demo"].hold("", 1):
        text = await metrics.text([])
    scrape = parse_metrics(text, at_s=1.0)
    assert (scrape.held, scrape.targets, scrape.reasons) == ({"demo": 1, "other": 0}, {"demo": 3}, {"demo": "load"})
    assert (
        'penstock_target_instances{model="fixed"} 2.0' in text and 'penstock_target_instances{model="demo"} 3.0' in text
    )
    assert 'penstock_cold_starts_total{model="demo"} 1.0' in text
    assert 'penstock_autoscaling_tokens_per_second{kind="output",model="demo"} 200.0' in text
    assert not scrape.is_silent


async def test_it_shows_the_nodes_and_who_answers_on_them() -> None:
    metrics = Metrics()
    metrics.add(RouterInfo(RouterAddress("10.0.0.2:8000", "n2", "router#1")))
    nodes = ClusterNodes()
    nodes.known = [Node("n1", "10.0.0.1", {"CPU": 2.0}), Node("n2", "10.0.0.2", {"CPU": 8.0, "GPU": 4.0})]
    metrics.fleet_wide = nodes.families
    instances = [Instance("demo-1", "demo", node="n2", state=InstanceState.READY)]
    scrape = parse_metrics(await metrics.text(instances), at_s=1.0)
    console = Console(width=120, file=io.StringIO())
    console.print(view(scrape, scrape))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["n1", "10.0.0.1", "2", "0", "0"] in lines
    assert ["n2", "10.0.0.2", "8", "4", "1", "10.0.0.2:8000"] in lines


async def test_a_policy_that_nobody_runs_is_said_and_only_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    async def read(prefix: str) -> dict[str, bytes]:
        return {}

    news = PolicyNews({"engine-demo": "demo"}, read, clock)
    await news.hear()
    assert not news.is_silent
    clock.now_s += SILENT_AFTER_S + 1
    for _ in range(3):
        await news.hear()
    assert news.is_silent
    assert caplog.text.count("does not run the fleet's autoscaling policy") == 1
    metrics = Metrics()
    metrics.fleet_wide = news.families
    assert parse_metrics(await metrics.text([]), at_s=1.0).is_silent


async def test_tokens_per_second_are_those_between_two_looks() -> None:
    before = parse_metrics("", at_s=10.0)
    latest = parse_metrics(
        '# TYPE penstock_generation_tokens_total counter\npenstock_generation_tokens_total{model="m"} 50\n', at_s=12.0
    )
    assert latest.tokens_per_s(before) == {"m": 25.0}
