"""Responses that are stored: read again, gone on from, listed, deleted; each tenant's own; on both databases."""

import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from deployments.database.database import Database
from deployments.fleet_settings import DatabaseSettings
from engines.errors import InstanceLost
from engines.events import Finished, RedactedReasoning, TextDelta, TokenLogprob, Usage
from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ADD, ASKED, PATH, SHELL, ask, checked, client, events_of
from tests.deployments.http.responses.test_responses import AGENT, check_agent

OUTPUTS: list[Any] = [
    {"type": "function_call_output", "call_id": "call_1", "output": "one"},
    {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "two"}]},
]
KEYS = {"ours": "team", "more": "team", "theirs": "other"}


async def test_it_is_read_again_as_it_was(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(AGENT, database=settings) as served, client(served) as api:
        response = await api.responses.create(**ASKED, tools=[ADD, SHELL])
        again = await api.responses.retrieve(response.id)
        check_agent(again)
        assert again.to_dict() == response.to_dict()
        assert again.to_dict()["store"] is True
        async with api.responses.stream(**ASKED, tools=[ADD, SHELL]) as stream:
            final = await stream.get_final_response()
        check_agent(await api.responses.retrieve(final.id))
        # The client's own helper goes on with a stream by the response's id.
        async with api.responses.stream(response_id=final.id, starting_after=3) as stream:
            events = [event async for event in stream]
        assert events[-1].response.id == final.id
        await api.responses.delete(response.id)
        for gone in (api.responses.retrieve, api.responses.delete, api.responses.cancel):
            with pytest.raises(openai.NotFoundError) as caught:
                await gone(response.id)
            assert caught.value.code == "response_not_found"


LOGPROBS = (TokenLogprob("a", 1, -0.5, b"a"), TokenLogprob("b", 2, -1.5, b"b"))


@pytest.mark.parametrize(
    "script",
    [
        AGENT,
        ["Hello ", "there", RedactedReasoning("opaque"), "again"],
        [TextDelta("a", logprobs=LOGPROBS[:1]), TextDelta("c"), TextDelta("b\U0001f600", logprobs=LOGPROBS)],
        [Finished(("stop",), Usage(1, 1), "demo-0")],
        ["cut", Finished(("length",), Usage(1, 1), "demo-0")],
        ["broken", 0.01, InstanceLost("It died.")],
    ],
    ids=["agent", "redacted", "logprobs", "nothing", "cut", "broken"],
)
async def test_its_stream_is_read_again_from_any_event_on(serving: Serving, tmp_path: Path, script: list[Any]) -> None:
    async with serving(script, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        asked = {"tools": [ADD, SHELL], "include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}
        events = events_of((await ask(served, **asked, stream=True)).body)
        path = f"{PATH}/{events[0]['response']['id']}"
        whole = checked((await served.get(path)).json)
        assert whole == events[-1]["response"]
        again = events_of((await served.get(f"{path}?stream=true")).body)
        assert again == events
        for after in range(len(events)):
            rest = events_of((await served.get(f"{path}?stream=true&starting_after={after}")).body)
            assert rest == events[after + 1 :]
        assert (await served.get(f"{path}?stream=true&starting_after=999")).body == b""


async def test_one_that_was_no_stream_is_read_as_one(serving: Serving, tmp_path: Path) -> None:
    async with serving(AGENT, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        response = (await ask(served, tools=[ADD, SHELL])).json
        events = events_of((await served.get(f"{PATH}/{response['id']}?stream=true")).body)
    assert events[-1]["response"] == response
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["Let me think.", "On it.", '{"a": 1}', "ls\n-l"]


async def test_a_conversation_goes_on(serving: Serving, settings: DatabaseSettings) -> None:
    tools = [ADD, SHELL]
    async with serving(AGENT, database=settings) as served, client(served) as api:
        asked = {"model": "demo", "tools": tools}
        first = await api.responses.create(**asked, input="hello there", instructions="Be kind.")
        second = await api.responses.create(**asked, input=OUTPUTS, previous_response_id=first.id)
        assert second.previous_response_id == first.id
        async with api.responses.stream(**asked, input=OUTPUTS, previous_response_id=second.id, store=False) as stream:
            third = await stream.get_final_response()
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(third.id)
        messages = [message.for_template() for message in served.engine.requests[-1].messages]
        roles = [message["role"] for message in messages]
        # The instructions of a response are not those of the next.
        assert roles == ["user", *["assistant", "tool", "tool"] * 2]
        assert messages[4]["reasoning_content"] == "Let me think." and messages[4]["content"] == "On it."
        # What the model is shown is what it would be if the client sent all of it.
        said = [item.to_dict() for item in first.output]
        await api.responses.create(**asked, input=[{"role": "user", "content": "hello there"}, *said, *OUTPUTS])
        given = served.engine.requests[-1].messages
        assert given == served.engine.requests[1].messages
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(**asked, input=[OUTPUTS[0]], previous_response_id=first.id)
        assert "call_2" in caught.value.message and caught.value.param == "previous_response_id"
        await api.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError) as gone:
            await api.responses.create(**asked, input=OUTPUTS, previous_response_id=second.id)
        assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_input_items_are_listed(serving: Serving, settings: DatabaseSettings) -> None:
    types: Any = TypeAdapter(ResponseItem)
    given: list[Any] = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": "three", "id": "mine"},
        {"role": "assistant", "content": "four", "id": "mine"},
        {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "shell", "input": "ls"},
        *OUTPUTS,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "developer", "content": "nine"},
    ]
    async with serving(["Hi"], database=settings) as served, client(served) as api:
        response = await api.responses.create(model="demo", input=given)
        path = f"{PATH}/{response.id}/input_items"
        everything = (await served.get(f"{path}?order=asc&limit=100")).json
        for item in everything["data"]:
            types.validate_python(item)
        assert [item["type"] for item in everything["data"]] == [item.get("type", "message") for item in given]
        assert len({item["id"] for item in everything["data"]}) == len(given)
        assert everything["has_more"] is False and everything["data"][2]["id"] == "mine"
        listed = [item.id async for item in await api.responses.input_items.list(response.id, limit=3)]
        assert listed == [item["id"] for item in reversed(everything["data"])]
        page = (await served.get(f"{path}?limit=2&order=asc&after=mine")).json
        assert [item["id"] for item in page["data"]] == [item["id"] for item in everything["data"][3:5]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
        assert page["has_more"] is True
        # What is listed can be sent as it is.
        assert (await ask(served, input=everything["data"])).status == 200
        first, last = served.engine.requests
        assert first.messages == last.messages


async def test_items_are_referred_to(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(AGENT, database=settings) as served, client(served) as api:
        first = await api.responses.create(**ASKED, tools=[ADD, SHELL])
        user = (await served.get(f"{PATH}/{first.id}/input_items")).json["data"][0]["id"]
        ids = [user, *(item.id for item in first.output)]
        references: list[Any] = [{"type": "item_reference", "id": id} for id in ids]
        references[0] = {"id": user}
        asked = {"model": "demo", "tools": [ADD, SHELL]}
        second = await api.responses.create(**asked, input=[*references, *OUTPUTS])
        third = await api.responses.create(**asked, input=OUTPUTS, previous_response_id=first.id)
        assert served.engine.requests[1].messages == served.engine.requests[2].messages
        assert second.status == third.status == "completed"
        for id in ("msg_" + "0" * 32 + "_0", f"{ids[1]}9", "\0", "x"):
            answer = await ask(served, input=[{"type": "item_reference", "id": id}])
            assert (answer.status, answer.json["error"]["param"]) == (400, "input[0].id")


async def test_what_is_small_to_ask_for_and_large_to_read_is_bounded(serving: Serving, tmp_path: Path) -> None:
    text = "x" * 60_000
    async with serving(
        ["Hi"], database=DatabaseSettings(file=str(tmp_path / "a")), max_body_bytes=100_000, max_bodies_bytes=150_000
    ) as served:
        first = (await ask(served, input=text)).json["id"]
        item = (await served.get(f"{PATH}/{first}/input_items")).json["data"][0]["id"]
        second = await ask(served, input=text, previous_response_id=first)
        assert second.status == 200
        answer = await ask(served, previous_response_id=second.json["id"])
        assert (answer.status, answer.json["error"]["code"]) == (400, "conversation_full")
        answer = await ask(served, input=[{"type": "item_reference", "id": item}] * 2)
        assert (answer.status, answer.json["error"]["code"]) == (400, "conversation_full")
        assert (await ask(served, input=[{"type": "item_reference", "id": item}])).status == 200
        # As much as other bodies leave, and no more.
        with served.ingress._services.bodies.room() as room:
            room.grow_to(140_000)
            for fields in ({"previous_response_id": first}, {"input": [{"type": "item_reference", "id": item}]}):
                assert (await ask(served, **fields)).json["error"]["code"] == "bodies_over_budget"
            for path in ("", "/input_items", "?stream=true"):
                assert (await served.get(f"{PATH}/{first}{path}")).json["error"]["code"] == "bodies_over_budget"
        assert (await served.get(f"{PATH}/{first}")).status == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=yes", "stream"),
        ("starting_after=1", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=" + "9" * 5000, "starting_after"),
    ],
)
async def test_what_is_wrong_in_a_query_is_named(serving: Serving, tmp_path: Path, query: str, param: str) -> None:
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        id = (await ask(served)).json["id"]
        answer = await served.get(f"{PATH}/{id}?{query}")
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        for items, name in (("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("after=x", "after")):
            answer = await served.get(f"{PATH}/{id}/input_items?{items}")
            assert (answer.status, answer.json["error"]["param"]) == (400, name)
        answer = await served.post(f"{PATH}/{id}/cancel", {})
        assert answer.status == 400 and "in the background" in answer.json["error"]["message"]


@pytest.mark.parametrize("id", ["x", "resp_" + "0" * 32, "%00", "resp_%F0%9F%98%80", "x" * 4000])
async def test_what_is_not_there_is_not_found(serving: Serving, settings: DatabaseSettings, id: str) -> None:
    async with serving(["Hi"], database=settings) as served:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            answer = await served.request(method, f"{PATH}/{id}{path}")
            assert answer.status == 404, (method, path, answer.body)
            assert len(answer.body) < 1000


async def test_nobody_elses(serving: Serving, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    tenants = {tenant: [key for key in KEYS if KEYS[key] == tenant] for tenant in KEYS.values()}
    keys.write_text(
        "tenants:\n"
        + "".join(
            f"  - name: {tenant}\n    keys:\n"
            + "".join(f"      - sha256: {hashlib.sha256(key.encode()).hexdigest()}\n" for key in of_it)
            for tenant, of_it in tenants.items()
        )
    )
    database = DatabaseSettings(file=str(tmp_path / "a"))
    async with serving(["Hi"], database=database, keys={"file": str(keys)}) as served:

        def headers(key: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {key}"}

        response = (await served.post(PATH, ASKED, headers=headers("ours"))).json
        path, item = f"{PATH}/{response['id']}", response["output"][0]["id"]
        assert (await served.get(path, headers=headers("more"))).status == 200
        assert (await served.get(path)).status == 401
        for method, rest in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
            answer = await served.request(method, path + rest, headers=headers("theirs"))
            assert (answer.status, answer.json["error"]["code"]) == (404, "response_not_found")
        for fields in ({"previous_response_id": response["id"]}, {"input": [{"type": "item_reference", "id": item}]}):
            answer = await served.post(PATH, {**ASKED, **fields}, headers=headers("theirs"))
            assert answer.status == 400
        assert (await served.request("DELETE", path, headers=headers("more"))).json["deleted"] is True


async def test_without_a_database_only_what_needs_one_is_refused(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        assert (await ask(served)).json["store"] is False
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            answer = await served.request(method, f"{PATH}/resp_1{path}")
            assert (answer.status, answer.json["error"]["code"]) == (400, "unsupported")


async def test_with_a_database_that_is_down_only_what_needs_it_waits(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "no" / "a"))) as served:
        for stream in (False, True):
            assert (await ask(served, stream=stream)).status == 200
            for fields in ({"store": True}, {"previous_response_id": "resp_" + "0" * 32}):
                answer = await ask(served, **fields, stream=stream)
                assert (answer.status, answer.json["error"]["code"]) == (503, "database_unavailable")
        assert (await ask(served)).json["store"] is False
        assert (await served.get(f"{PATH}/resp_1")).status == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_database_that_goes_away_meanwhile(serving: Serving, tmp_path: Path, stream: bool) -> None:
    databases: list[Database] = []

    def gone(_: Any) -> list[Any]:
        databases[0].problem = "It went away."
        return ["Hi"]

    async with serving(gone, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        databases.append(served.ingress._storage.database)
        for fields in ({}, {"store": True}):
            databases[0].problem = ""
            answer = await ask(served, **fields, stream=stream)
            response = events_of(answer.body)[-1]["response"] if stream else answer.json
            if not fields:
                assert (response["status"], response["store"]) == ("completed", False)
            elif stream:
                assert (response["status"], response["store"]) == ("failed", False)
                assert response["error"]["code"] == "server_error"
            else:
                assert (answer.status, response["error"]["code"]) == (503, "database_unavailable")
