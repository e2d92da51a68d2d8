"""Responses in the background: begun, looked at, read as they are said and later, cancelled, removed."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from deployments.fleet_settings import DatabaseSettings
from engines.errors import ContextOverflow, EngineFailed, QueueFull
from engines.events import Finished, TextDelta, TokenLogprob, Usage
from engines.scripted.script import Hang
from tests.deployments.http.conftest import Serving, until
from tests.deployments.http.responses.background.asking import Reader, begun, ended, look, reading, said, stands
from tests.deployments.http.responses.talking import ADD, ASKED, PATH, SHELL, ask, client, events_of
from tests.deployments.http.responses.test_responses import AGENT, check_agent
from tests.deployments.waiting import until as async_until

LOGPROBS = (TokenLogprob("a", 1, -0.5, b"a"), TokenLogprob("b", 2, -1.5, b"b"))


async def test_openais_own_client_polls_and_retrieves(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(AGENT, database=settings) as served, client(served) as api:
        asked = {**ASKED, "tools": [ADD, SHELL]}
        response = await api.responses.create(**asked, background=True)
        assert (response.status, response.background, response.output) == ("queued", True, [])
        async with asyncio.timeout(60):
            while response.status in ("queued", "in_progress"):
                await asyncio.sleep(0.02)
                response = await api.responses.retrieve(response.id)
        check_agent(response)
        items = await api.responses.input_items.list(response.id)
        assert items.data[0].content[0].text == "hello there"
        # What it was is what any other response is.
        plain = await api.responses.create(**asked)
        same = {"id": None, "created_at": None, "completed_at": None, "background": None, "output": None}
        assert {**response.to_dict(), **same} == {**plain.to_dict(), **same}
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": "call_1", "output": "one"},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "two"},
        ]
        await api.responses.create(model="demo", tools=[ADD, SHELL], input=outputs, previous_response_id=response.id)
        roles = [message.role for message in served.engine.requests[-1].messages or ()]
        assert roles == ["user", "assistant", "tool", "tool"]
        await api.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(response.id)


async def test_its_stream_is_read_as_it_is_said_and_again(serving: Serving, settings: DatabaseSettings) -> None:
    script = ["One ", 0.05, "two ", 0.05, "three"]
    async with serving(script, database=settings) as served, client(served) as api:
        stream = await api.responses.create(**ASKED, background=True, stream=True)
        events = [event.to_dict() async for event in stream]
        kinds = [event["type"] for event in events]
        assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
        assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
        assert kinds[-1] == "response.completed" and said(events) == "One two three"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        id = events[0]["response"]["id"]
        for after in range(len(events)):
            again = events_of((await served.get(f"{PATH}/{id}?stream=true&starting_after={after}")).body)
            assert again == events[after + 1 :]


@pytest.mark.parametrize(
    "script",
    [
        AGENT,
        [TextDelta("a", logprobs=LOGPROBS[:1]), TextDelta("c"), TextDelta("b\U0001f600", logprobs=LOGPROBS)],
        [Finished(("stop",), Usage(1, 1), "demo-0")],
        ["cut", Finished(("length",), Usage(1, 1), "demo-0")],
        ["broken", 0.1, EngineFailed("It failed.")],
    ],
    ids=["agent", "logprobs", "nothing", "cut", "broken"],
)
async def test_the_stream_goes_on_live_from_any_event(serving: Serving, tmp_path: Path, script: list[Any]) -> None:
    slow = [piece for item in script for piece in (0.01, item)]
    async with serving(slow, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        asked = {"tools": [ADD, SHELL], "include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}
        id = await begun(served, **asked)

        async def read(after: int | None) -> list[dict[str, Any]]:
            async with reading(served, id, after) as stream:
                return await stream.rest()

        whole, *parts = await asyncio.gather(read(None), *(read(after) for after in range(8)))
        assert whole == events_of((await served.get(f"{PATH}/{id}?stream=true")).body)
        assert whole[-1]["response"] == await look(served, id)
        for after, part in enumerate(parts):
            assert part == whole[after + 1 :]


async def test_it_is_cancelled(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["so far", Hang()], database=settings) as served, client(served) as api:
        id = await begun(served)
        async with reading(served, id) as stream:
            before = await stream.until("response.output_text.delta")
            response = await api.responses.cancel(id)
            assert response.status == "cancelled"
            (message,) = response.output
            assert (message.status, message.content[0].text) == ("incomplete", "so far")
            after = await stream.rest()
        # The API has no event of its own for that.
        assert (after[-1]["type"], after[-1]["response"]) == ("response.incomplete", response.to_dict())
        assert not served.engine.active
        again = await api.responses.cancel(id)
        assert again.to_dict() == response.to_dict() == (await api.responses.retrieve(id)).to_dict()
        events = events_of((await served.get(f"{PATH}/{id}?stream=true")).body)
        assert events == before + after


async def test_one_that_has_ended_stays_as_it_is_and_another_kind_is_refused(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        id = await begun(served)
        response = await ended(served, id)
        answer = await served.post(f"{PATH}/{id}/cancel")
        assert (answer.status, answer.json) == (200, response)
        other = (await ask(served)).json["id"]
        answer = await served.post(f"{PATH}/{other}/cancel")
        assert answer.status == 400 and "Only a response in the background" in answer.json["error"]["message"]


async def test_one_that_runs_is_removed_and_ends(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["so far", Hang()], database=settings) as served:
        id = await begun(served)
        async with reading(served, id) as stream:
            await stream.until("response.output_text.delta")
            items = (await served.get(f"{PATH}/{id}/input_items")).json
            assert items["data"][0]["content"][0]["text"] == "hello there"
            # It cannot be gone on from before it has ended, and the error says why.
            answer = await ask(served, previous_response_id=id)
            assert answer.status == 400 and "has not ended" in answer.json["error"]["message"]
            assert (await served.request("DELETE", f"{PATH}/{id}")).json["deleted"] is True
            assert await stream.rest() == []
        await until(lambda: not served.engine.active)
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            assert (await served.request(method, f"{PATH}/{id}{path}")).status == 404


async def test_its_client_may_leave(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["One ", 0.2, "two"], database=settings) as served:
        body = {**ASKED, "background": True, "stream": True}
        async with served.client.post(served.url + PATH, json=body) as response:
            events = await Reader(aiter(response.content)).until("response.output_text.delta")
        ended_response = await ended(served, events[0]["response"]["id"])
        assert ended_response["status"] == "completed"
        assert ended_response["output"][0]["content"][0]["text"] == "One two"


async def test_it_waits_for_room(serving: Serving, settings: DatabaseSettings) -> None:
    refusals = [QueueFull("It is full."), QueueFull("It is full."), QueueFull("It is full.")]

    def script(_: Any) -> list[Any]:
        return [refusals.pop()] if refusals else ["Hi"]

    async with serving(script, database=settings) as served:
        response = await ended(served, await begun(served))
        assert response["status"] == "completed" and not refusals


async def test_it_fails_where_there_is_no_room_in_time(serving: Serving, tmp_path: Path) -> None:
    bounds = {"background": {"max_wait_s": 0.5}}
    async with serving(
        [QueueFull("It is full.")], database=DatabaseSettings(file=str(tmp_path / "a")), responses=bounds
    ) as served:
        id = await begun(served)
        assert (await look(served, id))["status"] == "queued"
        response = await ended(served, id)
        assert (response["status"], response["error"]["code"]) == ("failed", "rate_limit_exceeded")
        assert "too much work" in response["error"]["message"]
        events = events_of((await served.get(f"{PATH}/{id}?stream=true")).body)
        assert [event["type"] for event in events][-2:] == ["response.in_progress", "response.failed"]


async def test_it_fails_where_it_takes_too_long(serving: Serving, tmp_path: Path) -> None:
    bounds = {"background": {"max_run_s": 0.5}}
    async with serving(
        ["so far", Hang()], database=DatabaseSettings(file=str(tmp_path / "a")), responses=bounds
    ) as served:
        response = await ended(served, await begun(served))
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
        assert "0.5 s" in response["error"]["message"] and response["output"][0]["content"][0]["text"] == "so far"
        assert not served.engine.active


async def test_what_only_an_engine_can_refuse_is_the_end_of_it(serving: Serving, tmp_path: Path) -> None:
    error = ContextOverflow("sampling.max_tokens: too long.", context_length=8, param="sampling.max_tokens")
    async with serving([error], database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        response = await ended(served, await begun(served))
        assert (response["status"], response["error"]["code"]) == ("failed", "invalid_prompt")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"store": False}, 400, "background"),
        ({"model": "none"}, 404, "model"),
        ({"max_output_tokens": -1}, 400, "max_output_tokens"),
        ({"background": "yes"}, 400, "background"),
        ({"input": "x" * 3000}, 400, "background"),
        ({"previous_response_id": "resp_" + "0" * 32}, 400, "previous_response_id"),
    ],
)
async def test_what_is_wrong_is_refused_at_once(
    serving: Serving, tmp_path: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    bounds = {"background": {"max_request_bytes": 3000}}
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "a")), responses=bounds) as served:
        for stream in (False, True):
            answer = await ask(served, **{"background": True, "stream": stream, **fields})
            assert (answer.status, answer.json["error"]["param"]) == (status, param), answer.body


async def test_a_database_that_is_away_refuses_it(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "no" / "a"))) as served:
        answer = await ask(served, background=True)
        assert (answer.status, answer.json["error"]["code"]) == (503, "database_unavailable")


async def test_a_tenant_has_its_share_of_them(serving: Serving, tmp_path: Path) -> None:
    bounds = {"background": {"max_per_tenant": 2, "max_bytes_per_tenant": 20_000}}
    async with serving(
        ["so far", Hang()], database=DatabaseSettings(file=str(tmp_path / "a")), responses=bounds
    ) as served:
        ids = [await begun(served) for _ in range(2)]
        answer = await ask(served, background=True)
        assert (answer.status, answer.json["error"]["code"]) == (429, "too_many_background_responses")
        assert "retry-after" in answer.headers
        await served.post(f"{PATH}/{ids[0]}/cancel")
        answer = await ask(served, background=True, input="x" * 20_000)
        assert (answer.status, answer.json["error"]["param"]) == (429, "background")
        await begun(served)


async def test_a_replica_makes_so_many_at_a_time(serving: Serving, tmp_path: Path) -> None:
    bounds = {"background": {"max_per_replica": 1}}
    async with serving(
        ["so far", Hang()], database=DatabaseSettings(file=str(tmp_path / "a")), responses=bounds
    ) as served:
        first, second = [await begun(served) for _ in range(2)]
        await stands(served, first, "in_progress")
        assert (await look(served, second))["status"] == "queued" and len(served.engine.active) == 1
        await served.post(f"{PATH}/{first}/cancel")
        await stands(served, second, "in_progress")


async def test_it_is_added_to_its_conversation(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["Hi"], database=settings) as served, client(served) as api:
        conversation = await api.conversations.create()
        response = await ended(served, await begun(served, conversation=conversation.id))
        assert response["conversation"] == {"id": conversation.id}
        items = [item async for item in api.conversations.items.list(conversation.id, order="asc")]
        assert [item.role for item in items] == ["user", "assistant"]


async def test_metrics_and_the_access_log_tell_of_it(serving: Serving, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "a")), access_log=str(log)) as served:
        id = await begun(served)
        await ended(served, id)

        async def metrics() -> str:
            return (await served.get("/metrics")).body.decode()

        async def counts_it() -> bool:
            return 'penstock_background_responses_total{outcome="completed"} 1.0' in await metrics()

        # A moment after it is there.
        await async_until(counts_it, 60)
        text = await metrics()
        assert "penstock_background_responses_running 0.0" in text
        assert (
            'penstock_requests_total{endpoint="/v1/responses in the background",model="demo",status="200"} 1.0' in text
        )
        assert 'penstock_generation_tokens_total{model="demo"} 2.0' in text
    assert f'"request_id": "{id}"' in log.read_text()
