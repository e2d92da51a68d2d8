"""The socket: who may open one, what it may cost, and how it ends."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from deployments.http.realtime import socket
from engines.scripted.script import Hang
from tests.deployments.http.conftest import Served, Serving, until
from tests.deployments.http.realtime.talking import talking, text_of
from tests.deployments.http.realtime.test_session import USER, echo
from tests.deployments.tenants.key_files import key_file


async def test_openais_own_client(serving: Serving) -> None:
    async with serving(echo) as served:
        client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        async with client.realtime.connect(model="demo") as connection:
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            await connection.conversation.item.create(item=USER)  # type: ignore[arg-type]
            await connection.response.create()
            said = ""
            async for event in connection:
                if event.type == "response.output_text.delta":
                    said += event.delta
                if event.type == "response.done":
                    break
            assert said == "hi (1)"
            assert event.response.output is not None and len(event.response.output) == 1
        await client.close()


async def refused(served: Served, path: str, **options: Any) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await served.client.ws_connect(served.url + path, **options)
    return caught.value.status


async def test_what_cannot_be_opened_is_said_before_the_handshake(serving: Serving) -> None:
    async with serving(echo) as served:
        assert await refused(served, "/v1/realtime") == 400
        assert await refused(served, "/v1/realtime?model=nothing") == 404
        plain = await served.get("/v1/realtime?model=demo")
        assert (plain.status, plain.json["error"]["code"]) == (400, "bad_http")


async def test_a_web_page_opens_none_that_is_not_named(serving: Serving) -> None:
    """A browser asks nobody before it opens a socket, and has no key to lack where none is asked for."""
    path = "/v1/realtime?model=demo"
    async with serving(echo, cors={"origins": ["https://good.example"]}) as served:
        assert await refused(served, path, origin="https://evil.example") == 403
        own = served.url
        for origin in (own, "https://good.example"):
            async with talking(served, origin=origin) as talk:
                assert talk.heard


@pytest.mark.parametrize("where", ["header", "subprotocol"])
async def test_a_key_is_asked_for_and_one_that_is_taken_away_ends_the_session(
    serving: Serving, tmp_path: Path, where: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(key_file(a={}))
    async with serving(echo, keys={"file": str(path)}) as served:

        def carrying(key: str) -> dict[str, Any]:
            if where == "header":
                return {"headers": {"Authorization": f"Bearer {key}"}}
            return {"protocols": ("realtime", f"openai-insecure-api-key.{key}")}

        assert await refused(served, "/v1/realtime?model=demo") == 401
        assert await refused(served, "/v1/realtime?model=demo", **carrying("bad")) == 401
        async with talking(served, **carrying("a-key")) as talk:
            assert text_of(await talk.says("hi")) == "hi (1)"
            path.write_text(key_file(another={}))
            assert await talk.closed() == 1008


async def test_sessions_of_a_tenant_are_bounded_and_its_quota_is_told(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(key_file(a={"tokens_per_minute": 100_000, "max_requests": 5}))
    good = {"headers": {"Authorization": "Bearer a-key"}}
    realtime = {"max_sessions_per_tenant": 2}
    async with serving(echo, keys={"file": str(path)}, realtime=realtime) as served:
        async with talking(served, **good) as talk, talking(served, **good):
            assert await refused(served, "/v1/realtime?model=demo", **good) == 429
            await talk.says("hi")
            [limits] = [event["rate_limits"] for event in talk.heard if event["type"] == "rate_limits.updated"]
            assert {one["name"]: one["limit"] for one in limits} == {"tokens": 100_000, "requests": 5}
        await until(lambda: served.ingress.in_flight == 0)
        async with talking(served, **good):
            pass


@pytest.mark.parametrize(
    ("message", "words"),
    [("no json", "not valid JSON"), ("[1]", "object"), ('{"a":' * 200 + "1" + "}" * 200, ""), (b"\x00", "binary")],
)
async def test_what_is_no_event_is_refused_and_the_session_goes_on(
    serving: Serving, message: str | bytes, words: str
) -> None:
    async with serving(echo) as served, talking(served) as talk:
        await (talk.socket.send_bytes(message) if isinstance(message, bytes) else talk.socket.send_str(message))
        assert words in (await talk.refused())["message"]
        assert text_of(await talk.says("hi")) == "hi (1)"


async def test_an_event_that_is_too_large_ends_its_session(serving: Serving) -> None:
    async with serving(echo, realtime={"max_event_bytes": 2048}) as served, talking(served) as talk:
        await talk.send("input_text_buffer.append", text="x" * 4096)
        assert await talk.closed() == 1009
        await served.still_serves()


async def test_a_history_is_bounded(serving: Serving) -> None:
    async with serving(echo, realtime={"max_items": 2}) as served, talking(served) as talk:
        for _ in range(3):
            await talk.send("conversation.item.create", item=USER)
        assert (await talk.refused())["code"] == "conversation_full"


async def test_an_idle_session_is_closed_and_one_that_answers_is_not(serving: Serving) -> None:
    script = ["a", 0.5, "b"]
    async with serving(script, realtime={"idle_timeout_s": 0.2}) as served, talking(served) as talk:
        assert text_of(await talk.says("hi")) == "ab"
        assert await talk.closed() == 1001


async def test_a_silent_session_is_pinged_and_kept_though_nobody_answers(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "PING_S", 0.02)
    async with serving(echo) as served, talking(served, autoping=False) as talk:
        for _ in range(5):
            assert (await talk.socket.receive(timeout=30)).type is aiohttp.WSMsgType.PING
        assert text_of(await talk.says("hi")) == "hi (1)"


async def test_a_client_that_leaves_ends_its_response(serving: Serving) -> None:
    async with serving(["a", Hang(hang=True)]) as served:
        async with talking(served) as talk:
            await talk.send("conversation.item.create", item=USER)
            await talk.send("response.create")
            await talk.until("response.output_text.delta")
            assert served.engine.load().running == 1
        await until(lambda: served.engine.load().running == 0)
        await until(lambda: served.ingress.in_flight == 0)


async def test_the_servers_end_closes_sessions_between_turns(serving: Serving) -> None:
    async with serving(["a", 0.3, "b"]) as served, talking(served) as idle, talking(served) as busy:
        await busy.send("conversation.item.create", item=USER)
        await busy.send("response.create")
        await busy.until("response.output_text.delta")
        stopping = asyncio.ensure_future(served.ingress.stop(20.0))
        assert await idle.closed() == 1012
        assert text_of(await busy.done()) == "ab"
        assert await busy.closed() == 1012
        await stopping


async def test_each_turn_is_a_request_in_figures_and_logs(serving: Serving, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with serving(echo, access_log=str(log)) as served, talking(served) as talk:
        await talk.says("hi")
        await talk.says("ho")
        text = (await served.get("/metrics")).body.decode()
        assert 'penstock_requests_total{endpoint="/v1/realtime",model="demo",status="200"} 2.0' in text
        # An open session is no request to a model.
        assert "penstock_requests_in_flight 0.0" in text
    lines = [line for line in log.read_text().splitlines() if '"resp_' in line]
    assert len(lines) == 2 and '"model": "demo"' in lines[0]


async def test_a_client_that_does_not_read_is_dropped(serving: Serving) -> None:
    script = ["x" * 1000 for _ in range(40_000)]
    async with serving(script, unread_stream_bytes=2**20) as served, talking(served) as talk:
        await talk.send("conversation.item.create", item=USER)
        await talk.send("response.create")
        await until(lambda: served.ingress.in_flight == 0, 60.0)
        assert "penstock_unread_streams_ended_total 1.0" in (await served.get("/metrics")).body.decode()
