import asyncio
import socket

import aiohttp
import pytest

from deployments.fleet import Fleet
from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import QUIET_S, HttpIngress
from deployments.http.server.hints import INSTANCE_HEADER
from deployments.http.server.refusals import CannotListen
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from engines.errors import EngineDead
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.deployments.http.conftest import HELLO, Serving, until
from tests.deployments.memory_board import MemoryBoard
from tests.deployments.test_metrics import values


async def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ingress = HttpIngress(LocalFleet({}), HttpSettings(port=port), Metrics())
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port} is taken"):
            await ingress.start()
        await ingress.stop()


async def test_an_address_of_another_machine_is_a_clear_error() -> None:
    ingress = HttpIngress(LocalFleet({}), HttpSettings(host="203.0.113.1", port=0, open=True), Metrics())
    with pytest.raises(CannotListen, match="no address"):
        await ingress.start()


async def test_two_ingresses_share_a_port(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        second = HttpIngress(served.fleet, HttpSettings(port=served.ingress.port), Metrics())
        await second.start()
        try:
            assert second.port == served.ingress.port
            await served.still_serves()
        finally:
            await second.stop(0)


async def test_draining_shows_in_ready_alone(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        assert (await served.get("/ready")).json == {"status": "ready"}
        served.ingress.drain()
        ready = await served.get("/ready")
        assert (ready.status, ready.json) == (503, {"status": "draining"})
        assert (await served.get("/live")).status == 200
        assert (await served.get("/-/healthz")).status == 503
        answer = await served.chat()
        assert answer.status == 200
        assert answer.headers["Connection"] == "close"
        stream = await served.chat(stream=True)
        assert stream.headers["Connection"] == "close"


async def test_what_it_counted_is_not_lost_when_it_ends() -> None:
    board = MemoryBoard()
    fleet = LocalFleet({"demo": [ScriptedEngine("a")]})
    await fleet.start()
    ingress = HttpIngress(fleet, HttpSettings(port=0), Metrics("ends", board))
    await ingress.start()
    url = f"http://127.0.0.1:{ingress.port}/v1/chat/completions"
    body = {"model": "demo", "messages": HELLO}
    async with aiohttp.ClientSession() as client, client.post(url, json=body) as response:
        assert response.status == 200
    await ingress.stop()
    figures = values(await Metrics("stays", board).text([]))
    assert sum(value for key, value in figures.items() if key.startswith("penstock_requests_total{")) == 1


async def test_ready_waits_for_every_model_and_then_needs_one() -> None:
    engines = [ScriptedEngine("a"), ScriptedEngine("b")]
    fleet = LocalFleet({"a": [engines[0]], "b": [engines[1]]})
    await Fleet.start(fleet)  # Its engines boot one by one.
    ingress = HttpIngress(fleet, HttpSettings(port=0), Metrics())
    await ingress.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{ingress.port}") as client:

            async def ready() -> tuple[int, str]:
                async with client.get("/ready") as response:
                    return response.status, (await response.json())["status"]

            await engines[0].start()
            await until(lambda: fleet.find("a").engine.ready)
            assert await ready() == (503, "starting")
            await engines[1].start()
            await until(lambda: fleet.ready)
            assert await ready() == (200, "ready")
            await engines[0].stop()
            assert await ready() == (200, "ready")
            await engines[1].stop()
            assert await ready() == (503, "unavailable")
    finally:
        await ingress.stop(0)


async def test_stop_lets_requests_end(serving: Serving) -> None:
    async with serving(["Hi", 0.3, " there"]) as served:
        asked = asyncio.create_task(served.chat(stream=True))
        await until(lambda: bool(served.engine.active))
        await served.ingress.stop(20)
        assert b"[DONE]" in (await asked).body
        with pytest.raises(aiohttp.ClientConnectorError):
            await served.get("/live")


async def test_connections_are_taken_until_the_notice_is_over(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        stopping = asyncio.create_task(served.ingress.stop(20, notice_s=30))
        await asyncio.sleep(0)  # It has begun.
        for path, status in (("/ready", 503), ("/live", 200)):
            answer = await served.get(path)  # Over a new connection each: the last was closed.
            assert (answer.status, answer.headers["Connection"]) == (status, "close")
        assert (await served.chat()).status == 200
        stopping.cancel()


async def test_a_kept_connection_is_good_for_one_more_request(serving: Serving) -> None:
    async with serving(["Hi", 0.3, " there"]) as served:
        await asyncio.gather(served.chat(), served.chat())
        asked = asyncio.create_task(served.chat(stream=True))
        await until(lambda: bool(served.engine.active))
        stopping = asyncio.create_task(served.ingress.stop(20))
        await asyncio.sleep(0)
        assert (await served.chat()).status == 200
        assert b"[DONE]" in (await asked).body
        await stopping


async def test_a_client_that_asks_again_after_its_answer_is_answered(serving: Serving) -> None:
    async with serving(["Hi", 0.3, " there"]) as served:
        asked = asyncio.create_task(served.chat(stream=True))
        await until(lambda: bool(served.engine.active))
        stopping = asyncio.create_task(served.ingress.stop(20))
        assert b"[DONE]" in (await asked).body
        # Nothing is under way now, and nobody has told this connection that it is to close.
        await asyncio.sleep(QUIET_S / 4)
        assert (await served.chat()).status == 200
        await stopping


async def test_stop_ends_what_is_left_at_the_deadline(serving: Serving) -> None:
    async with serving(["Hi", Hang()]) as served:
        asked = asyncio.create_task(served.chat(stream=True))
        await until(lambda: bool(served.engine.active))
        await served.ingress.stop(0.1)
        with pytest.raises(aiohttp.ClientError):
            await asked
        await until(lambda: not served.engine.active)


async def test_stop_does_not_wait_for_idle_connections(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        await served.chat()
        async with asyncio.timeout(2 * QUIET_S):
            await served.ingress.stop(20)


async def test_an_engine_that_dies_is_an_error_and_the_next_request_goes_elsewhere(serving: Serving) -> None:
    engines = [ScriptedEngine("demo-0", script=["Hel", EngineDead("It is dead.")]), ScriptedEngine("demo-1")]
    body = {"model": "demo", "messages": HELLO}
    async with serving(engines=engines) as served:
        died = await served.post("/v1/chat/completions", body, headers={INSTANCE_HEADER: "demo-0"})
        answers = [await served.post("/v1/chat/completions", body) for _ in range(3)]
    assert died.status == 500
    assert [answer.status for answer in answers] == [200, 200, 200]
