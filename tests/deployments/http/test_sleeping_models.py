"""A model without instances: requests wait for the first one, and nobody takes it for broken."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from actors.directory.known_instance import InstanceState
from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.http.server import answer
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from deployments.model_settings import RoutingSettings
from engines.scripted.engine import ScriptedEngine
from tests.deployments.http.conftest import Served
from tests.deployments.waiting import until


class SleepyFleet(LocalFleet):
    """One whose models have no instance while none of their engines has booted."""

    def __init__(self, engine: ScriptedEngine, **routing: float) -> None:
        super().__init__({"demo": [engine]}, routing=RoutingSettings.model_validate(routing))
        self.models = tuple(replace(model, may_sleep=True) for model in self.models)
        self._by_name = {"demo": self.models[0]}


@pytest.fixture
async def asleep(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """Served, but asleep: it wakes up with `engine.start()`."""
    engine = ScriptedEngine("demo-0", script=["Good", " morning"])
    routing = {"wait_s": 60.0} | getattr(request, "param", {})
    fleet, metrics = SleepyFleet(engine, **routing), Metrics()
    await fleet.start()
    await engine.stop()
    await until(lambda: fleet.instances()[0].state is InstanceState.STARTING)
    ingress = HttpIngress(fleet, HttpSettings(port=0), metrics)
    await ingress.start()
    client = aiohttp.ClientSession()
    try:
        yield Served(ingress, fleet, metrics, engine, client)
    finally:
        await client.close()
        await ingress.stop(0)
        await fleet.stop()


async def test_it_is_ready_and_says_that_it_sleeps(asleep: Served) -> None:
    assert (await asleep.get("/ready")).status == 200
    (model,) = (await asleep.get("/v1/models")).json["data"]
    assert model["status"] == "asleep"
    await asleep.engine.start()
    await until(lambda: asleep.fleet.models[0].engine.ready)
    (model,) = (await asleep.get("/v1/models")).json["data"]
    assert model["status"] == "ready"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_waits_for_the_boot(asleep: Served, stream: bool) -> None:
    asked = asyncio.create_task(asleep.chat(stream=stream))
    await until(lambda: asleep.metrics.in_flight == 1)
    await asleep.engine.start()
    answer = await asked
    assert answer.status == 200
    assert b"morning" in answer.body


@pytest.mark.parametrize("asleep", [{"wait_s": 0.2}], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_boot_that_takes_too_long_is_a_503_with_a_time_to_come_again(asleep: Served, stream: bool) -> None:
    answer = await asleep.chat(stream=stream)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("asleep", [{"max_held": 1}], indirect=True)
async def test_one_too_many_is_a_503_with_a_time_to_come_again(asleep: Served) -> None:
    first = asyncio.create_task(asleep.chat(stream=True))
    await until(lambda: len(asleep.fleet._router.held["demo"]) == 1)
    refused = await asleep.chat(stream=True)
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    await asleep.engine.start()
    assert (await first).status == 200


async def test_a_stream_that_waits_for_long_is_kept_alive_by_comments(
    asleep: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "KEEP_ALIVE_S", 0.05)
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with asleep.client.post(f"{asleep.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        await asleep.engine.start()
        said = await response.content.read()
    assert b"morning" in said
    assert said.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("asleep", [{"wait_s": 0.5}], indirect=True)
async def test_once_comments_were_sent_an_error_is_part_of_the_stream(
    asleep: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "KEEP_ALIVE_S", 0.05)
    answered = await asleep.chat(stream=True)
    assert answered.status == 200
    assert answered.body.startswith(b": keep-alive\n\n")
    assert b'"error"' in answered.body
    assert b"No instance of the model 'demo'" in answered.body
    assert asleep.metrics.in_flight == 0


async def test_a_client_that_leaves_while_it_waits_is_not_waited_for(
    asleep: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "KEEP_ALIVE_S", 0.05)
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with asleep.client.post(f"{asleep.url}/v1/chat/completions", json=body) as response:
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        response.close()
    await until(lambda: len(asleep.fleet._router.held["demo"]) == 0)
    await until(lambda: asleep.metrics.in_flight == 0)
