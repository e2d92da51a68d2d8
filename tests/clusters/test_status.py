from actors.directory.known_instance import Instance, InstanceState
from clusters.status import parse_metrics
from deployments.metrics import Metrics
from engines.contract import Load
from engines.events import Usage


async def test_it_reads_what_the_ingress_writes() -> None:
    metrics = Metrics()
    meter = metrics.begin("/v1/chat/completions")
    meter.model = "demo"
    meter.first_token()
    meter.finish(Usage(prompt_tokens=3, completion_tokens=40))
    metrics.end(meter, 200)
    metrics.begin("/v1/chat/completions").model = "demo"
    instances = [
        Instance("demo-2", "demo", node="n2", state=InstanceState.DRAINING),
        Instance("demo-1", "demo", node="n1", state=InstanceState.READY, load=Load(running=3, queued=2, kv_use=0.5)),
    ]
    scrape = parse_metrics(await metrics.text(instances), at_s=1.0)
    first, second = scrape.rows
    assert (first.id, first.state, first.node) == ("demo-1", InstanceState.READY, "n1")
    assert (first.running, first.queued, first.kv_use) == (3, 2, 0.5)
    assert (second.id, second.state) == ("demo-2", InstanceState.DRAINING)
    assert scrape.tokens == {"demo": 40.0}
    assert scrape.in_flight == 1


async def test_tokens_per_second_are_those_between_two_looks() -> None:
    before = parse_metrics("", at_s=10.0)
    latest = parse_metrics(
        '# TYPE penstock_generation_tokens_total counter\npenstock_generation_tokens_total{model="m"} 50\n', at_s=12.0
    )
    assert latest.tokens_per_s(before) == {"m": 25.0}
