"""Conversations by name: made, read, listed, gone on with; each tenant's own; on both databases."""

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.conversations import ConversationItem
from pydantic import TypeAdapter

from deployments.database.database import Database
from deployments.fleet_settings import DatabaseSettings
from engines.errors import InstanceLost
from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ADD, ASKED, SHELL, ask, client, events_of
from tests.deployments.http.responses.test_responses import AGENT
from tests.deployments.http.responses.test_stored import OUTPUTS
from tests.deployments.tenants.key_files import key_file

PATH = "/v1/conversations"
MISSING = "conv_" + "0" * 32


def said(text: str, role: str = "user") -> Any:
    return {"type": "message", "role": role, "content": text}


async def test_it_is_made_changed_and_removed(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["Hi"], database=settings) as served, client(served) as api:
        made = await api.conversations.create(metadata={"topic": "sums"}, items=[said("one")])
        assert (made.object, made.metadata) == ("conversation", {"topic": "sums"})
        assert await api.conversations.retrieve(made.id) == made
        changed = await api.conversations.update(made.id, metadata={"topic": "more"})
        assert changed.metadata == {"topic": "more"}
        assert await api.conversations.retrieve(made.id) == changed
        gone = await api.conversations.delete(made.id)
        assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
        with pytest.raises(openai.NotFoundError) as caught:
            await api.conversations.retrieve(made.id)
        assert caught.value.code == "conversation_not_found"


async def test_its_items_are_listed_and_taken_out(serving: Serving, settings: DatabaseSettings) -> None:
    types: Any = TypeAdapter(ConversationItem)
    async with serving(["Hi"], database=settings) as served, client(served) as api:
        made = await api.conversations.create(items=[said("zero"), {**said("one", "assistant"), "id": "\0mine"}])
        added = await api.conversations.items.create(made.id, items=[said(str(number)) for number in range(2, 6)])
        assert [item.content[0].text for item in added.data] == ["2", "3", "4", "5"]
        everything = [item async for item in api.conversations.items.list(made.id, order="asc", limit=4)]
        for item in everything:
            types.validate_python(item.to_dict())
        assert [item.content[0].text for item in everything] == ["zero", "one", "2", "3", "4", "5"]
        assert len({item.id for item in everything}) == 6
        backwards = [item.id async for item in api.conversations.items.list(made.id, limit=1)]
        assert backwards == [item.id for item in reversed(everything)]
        page = await api.conversations.items.list(made.id, after=everything[1].id, limit=2, order="asc")
        assert ([item.id for item in page.data], page.has_more) == ([item.id for item in everything[2:4]], True)
        one = everything[3].id
        assert await api.conversations.items.retrieve(one, conversation_id=made.id) == everything[3]
        assert (await api.conversations.items.delete(one, conversation_id=made.id)).id == made.id
        with pytest.raises(openai.NotFoundError) as caught:
            await api.conversations.items.retrieve(one, conversation_id=made.id)
        assert caught.value.code == "conversation_item_not_found"
        assert len([item async for item in api.conversations.items.list(made.id)]) == 5


async def test_responses_go_on_in_it(serving: Serving, settings: DatabaseSettings) -> None:
    tools = [ADD, SHELL]
    async with serving(AGENT, database=settings) as served, client(served) as api:
        made = await api.conversations.create(items=[said("before")])
        asked: Any = {"model": "demo", "tools": tools, "conversation": made.id}
        first = await api.responses.create(**asked, input="hello there")
        assert first.conversation.id == made.id
        assert (await api.responses.retrieve(first.id)).conversation.id == made.id
        async with api.responses.stream(**{**asked, "conversation": {"id": made.id}}, input=OUTPUTS) as stream:
            await stream.get_final_response()
        # What is not stored itself is in its conversation all the same.
        await api.responses.create(**asked, input=OUTPUTS, store=False)
        roles = [message.role for message in served.engine.requests[-1].messages]
        assert roles == ["user", "user", *["assistant", "tool", "tool"] * 2]
        listed = [item async for item in api.conversations.items.list(made.id, order="asc", limit=100)]
        said_first = [item.id for item in first.output]
        assert [item.id for item in listed[2 : 2 + len(said_first)]] == said_first
        assert len(listed) == 2 + 3 * len(said_first) + 2 * len(OUTPUTS)
        # The model is shown what it would be if the client sent all of it.
        sent = [item.to_dict() for item in listed[: 2 + len(said_first)]]
        await api.responses.create(model="demo", tools=tools, input=[*sent, *OUTPUTS])
        assert served.engine.requests[-1].messages == served.engine.requests[1].messages
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="demo", input="on", previous_response_id=first.id)
        assert (caught.value.param, made.id in caught.value.message) == ("previous_response_id", True)
        count = await api.responses.input_tokens.count(model="demo", tools=tools, input=OUTPUTS, conversation=made.id)
        assert count.input_tokens > 0


async def test_what_has_failed_is_not_in_it(serving: Serving, tmp_path: Path) -> None:
    script = ["broken", 0.01, InstanceLost("It died.")]
    async with serving(script, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        id = (await served.post(PATH, {})).json["id"]
        events = events_of((await ask(served, conversation=id, stream=True)).body)
        assert events[-1]["type"] == "response.failed"
        assert (await served.get(f"{PATH}/{id}/items")).json["data"] == []


async def test_what_is_wrong_is_named(serving: Serving, tmp_path: Path) -> None:
    file = str(tmp_path / "a")
    async with serving(["Hi"], database=DatabaseSettings(file=file), max_body_bytes=20_000) as served:
        id = (await served.post(PATH, {})).json["id"]
        both = await ask(served, conversation=id, previous_response_id="resp_" + "0" * 32)
        assert (both.status, both.json["error"]["param"]) == (400, "conversation")
        for missing in (MISSING, "\0", "x" * 4000, {"id": MISSING}):
            answer = await ask(served, conversation=missing)
            assert (answer.status, answer.json["error"]["param"]) == (404, "conversation"), answer.body
        answer = await ask(served, conversation={"id": id, "name": "x"})
        assert (answer.status, answer.json["error"]["param"]) == (400, "conversation.name")
        cases: list[tuple[str, Any, str]] = [
            ("", {"items": [said("x")] * 21}, "items"),
            ("", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0]"),
            ("", {"items": [{"type": "web_search_call"}]}, "items[0].type"),
            ("", {"items": [{**said("x"), "role": "nobody"}]}, "items[0].role"),
            ("", {"metadata": {"a": 1}}, "metadata.a"),
            ("", {"name": "x"}, "name"),
            (f"/{id}", {}, "metadata"),
            (f"/{id}/items", {}, "items"),
            (f"/{id}/items", {"items": []}, "items"),
        ]
        for path, body, param in cases:
            answer = await served.post(PATH + path, body)
            assert (answer.status, answer.json["error"]["param"]) == (400, param), (body, answer.body)
        for query, param in (("limit=0", "limit"), ("order=up", "order"), ("after=%00", "after"), ("after=x", "after")):
            answer = await served.get(f"{PATH}/{id}/items?{query}")
            assert (answer.status, answer.json["error"]["param"]) == (400, param)
        # It holds no more than a body may.
        assert (await served.post(f"{PATH}/{id}/items", {"items": [said("x" * 15_000)]})).status == 200
        full = await served.post(f"{PATH}/{id}/items", {"items": [said("x" * 15_000)]})
        assert (full.status, full.json["error"]["code"]) == (400, "conversation_full")
        assert (await ask(served, conversation=id, input="y" * 10_000)).status == 200
        full = await ask(served, conversation=id)
        assert (full.status, full.json["error"]["param"]) == (400, "conversation")


@pytest.mark.parametrize("id", ["x", MISSING, "%00", "conv_%F0%9F%98%80", "x" * 4000])
async def test_what_is_not_there_is_not_found(serving: Serving, settings: DatabaseSettings, id: str) -> None:
    async with serving(["Hi"], database=settings) as served:
        there = (await served.post(PATH, {})).json["id"]
        assert (await served.get(f"{PATH}/{there}/items/{id}")).json["error"]["code"] == "conversation_item_not_found"
        for method, path, body in (
            ("GET", "", None),
            ("POST", "", {"metadata": {}}),
            ("DELETE", "", None),
            ("GET", "/items", None),
            ("POST", "/items", {"items": [said("x")]}),
            ("GET", "/items/msg_1", None),
            ("DELETE", "/items/msg_1", None),
        ):
            answer = await served.request(method, f"{PATH}/{id}{path}", json=body)
            assert (answer.status, answer.json["error"]["code"]) == (404, "conversation_not_found"), (method, path)
            assert len(answer.body) < 1000


async def test_nobody_elses(serving: Serving, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(key_file(ours={}, theirs={}))
    database = DatabaseSettings(file=str(tmp_path / "a"))
    async with serving(["Hi"], database=database, keys={"file": str(keys)}) as served:
        ours, theirs = ({"Authorization": f"Bearer {name}-key"} for name in ("ours", "theirs"))
        id = (await served.post(PATH, {"items": [said("x")]}, headers=ours)).json["id"]
        item = (await served.get(f"{PATH}/{id}/items", headers=ours)).json["data"][0]["id"]
        for method, path, body in (
            ("GET", "", None),
            ("POST", "", {"metadata": {}}),
            ("GET", "/items", None),
            ("POST", "/items", {"items": [said("x")]}),
            ("GET", f"/items/{item}", None),
            ("DELETE", f"/items/{item}", None),
            ("DELETE", "", None),
        ):
            answer = await served.request(method, f"{PATH}/{id}{path}", json=body, headers=theirs)
            assert (answer.status, answer.json["error"]["code"]) == (404, "conversation_not_found"), (method, path)
        from_theirs = {**ASKED, "conversation": id}
        assert (await served.post("/v1/responses", from_theirs, headers=theirs)).status == 404
        assert (await served.get(f"{PATH}/{id}/items", headers=ours)).json["data"][0]["id"] == item


async def test_without_a_database_it_is_refused(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"]) as served:
        for answer in (await served.post(PATH, {}), await ask(served, conversation=MISSING)):
            assert (answer.status, answer.json["error"]["code"]) == (400, "unsupported")
    async with serving(["Hi"], database=DatabaseSettings(file=str(tmp_path / "no" / "a"))) as served:
        for answer in (await served.post(PATH, {}), await ask(served, conversation=MISSING)):
            assert (answer.status, answer.json["error"]["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_database_that_goes_away_meanwhile_is_told(serving: Serving, tmp_path: Path, stream: bool) -> None:
    databases: list[Database] = []

    def gone(_: Any) -> list[Any]:
        databases[0].problem = "It went away."
        return ["Hi"]

    async with serving(gone, database=DatabaseSettings(file=str(tmp_path / "a"))) as served:
        databases.append(served.ingress._storage.database)
        id = (await served.post(PATH, {})).json["id"]
        answer = await ask(served, conversation=id, stream=stream)
        if stream:
            assert events_of(answer.body)[-1]["type"] == "response.failed"
        else:
            assert (answer.status, answer.json["error"]["code"]) == (503, "database_unavailable")
        databases[0].problem = ""
        assert (await served.get(f"{PATH}/{id}/items")).json["data"] == []
