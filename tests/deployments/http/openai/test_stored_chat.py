"""Chat completions that are stored: read again, listed, noted on, deleted; each tenant's own; on both databases."""

import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionStoreMessage

from deployments.database.database import Database
from deployments.fleet_settings import DatabaseSettings
from engines.errors import InstanceLost
from engines.events import TextDelta, TokenLogprob
from tests.deployments.http.conftest import HELLO, Served, Serving
from tests.deployments.http.openai.test_chat import AGENT, TOOL, events_of

PATH = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "demo", "messages": HELLO, "store": True}
LOGPROBS = (TokenLogprob("a", 1, -0.5, b"a"), TokenLogprob("b", 2, -1.5, b"b"))
KEYS = {"ours": "team", "more": "team", "theirs": "other"}


def client(served: Served) -> Any:
    """OpenAI's own client, which holds what it reads to its types."""
    return openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="any", max_retries=0, _strict_response_validation=True
    )


def file_in(folder: Path) -> DatabaseSettings:
    return DatabaseSettings(file=str(folder / "a"))


async def test_it_is_read_again_as_it_was(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(AGENT, database=settings) as served, client(served) as api:
        asked = {**ASKED, "tools": [TOOL], "temperature": 0.5, "user": "me", "metadata": {"a": "1"}}
        made = await api.chat.completions.create(**asked)
        again = await api.chat.completions.retrieve(made.id)
        said = again.to_dict()
        assert {name: said[name] for name in made.to_dict()} == made.to_dict()
        assert (said["metadata"], said["temperature"], said["input_user"]) == ({"a": "1"}, 0.5, "me")
        assert said["tools"] == [TOOL] and said["request_id"] and said["seed"] is None
        gone = await api.chat.completions.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "chat.completion.deleted")
        for ask in (api.chat.completions.retrieve, api.chat.completions.delete, api.chat.completions.messages.list):
            with pytest.raises(openai.NotFoundError) as caught:
                await ask(made.id)
            assert caught.value.code == "chat_completion_not_found"


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        (AGENT, {"tools": [TOOL]}),
        (
            [TextDelta("a", logprobs=LOGPROBS[:1]), TextDelta("\U0001f600\0\ud800", logprobs=LOGPROBS)],
            {"logprobs": True},
        ),
        (["Hi"], {"n": 3, "return_token_ids": True}),
    ],
    ids=["agent", "logprobs", "choices"],
)
async def test_a_stream_is_stored_as_a_whole_answer_is(
    serving: Serving, settings: DatabaseSettings, script: Any, fields: dict[str, Any]
) -> None:
    async with serving(script, database=settings) as served:
        whole = (await served.post(PATH, {**ASKED, **fields})).json
        chunks = events_of((await served.post(PATH, {**ASKED, **fields, "stream": True})).body)
        (id,) = {chunk["id"] for chunk in chunks}
        stored = (await served.get(f"{PATH}/{id}")).json
        ChatCompletion.model_validate(stored)
        first = (await served.get(f"{PATH}/{whole['id']}")).json
        assert {name: first[name] for name in whole} == whole
        different = {"id", "created", "request_id"}
        assert {name: stored[name] for name in stored.keys() - different} == {
            name: first[name] for name in first.keys() - different
        }


async def test_only_what_asks_for_it_is_stored(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], database=file_in(tmp_path)) as served:
        for fields in ({}, {"store": False}, {"store": None, "metadata": {"any": [1]}}):
            for stream in (False, True):
                answer = await served.chat(**fields, stream=stream)
                assert answer.status == 200
        assert (await served.get(PATH)).json == {
            "object": "list",
            "data": [],
            "first_id": "",
            "last_id": "",
            "has_more": False,
        }


async def test_what_breaks_off_is_not_stored(serving: Serving, tmp_path: Path) -> None:
    async with serving(["broken", 0.01, InstanceLost("It died.")], database=file_in(tmp_path)) as served:
        await served.post(PATH, {**ASKED, "stream": True})
        await served.post(PATH, ASKED)
        assert (await served.get(PATH)).json["data"] == []


async def test_they_are_listed_page_by_page(serving: Serving, settings: DatabaseSettings) -> None:
    notes = [{"kind": "a"}, {"kind": "b\0\U0001f600"}, {"kind": "a", "more\"'": "x" * 512}, {}]
    async with serving(["Hi"], database=settings, aliases={"other": "demo"}) as served, client(served) as api:
        made = [
            (await api.chat.completions.create(**{**ASKED, "model": model}, metadata=note)).id
            for model, note in zip(("demo", "demo", "other", "demo"), notes, strict=True)
        ]

        async def listed(**fields: Any) -> list[str]:
            return [completion.id async for completion in await api.chat.completions.list(**fields)]

        assert await listed() == await listed(limit=1) == await listed(order="asc", limit=3) == made
        assert await listed(order="desc", limit=2) == made[::-1]
        assert await listed(model="other") == made[2:3]
        assert await listed(model="no\0ne") == []
        assert await listed(metadata={"kind": "a"}) == [made[0], made[2]]
        assert await listed(metadata={"kind": "b\0\U0001f600"}) == made[1:2]
        assert await listed(metadata={"kind": "a", "more\"'": "x" * 512}, order="desc") == made[2:3]
        assert await listed(metadata={"kind": "a"}, model="demo") == made[:1]
        page = (await served.get(f"{PATH}?limit=2&after={made[0]}")).json
        assert (page["first_id"], page["last_id"], page["has_more"]) == (made[1], made[2], True)
        # Who deletes them while they list them misses none.
        async for completion in await api.chat.completions.list(limit=1):
            await api.chat.completions.delete(completion.id)
        assert await listed() == []


async def test_metadata_is_noted_anew(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["Hi"], database=settings) as served, client(served) as api:
        made = await api.chat.completions.create(**ASKED, metadata={"a": "1", "b": "2"})
        noted = await api.chat.completions.update(made.id, metadata={"b": "3", "c": "\0"})
        assert noted == await api.chat.completions.retrieve(made.id)
        assert noted.metadata == {"b": "3", "c": "\0"} and noted.choices == made.choices
        found = {
            value: [completion.id async for completion in await api.chat.completions.list(metadata={"b": value})]
            for value in ("2", "3")
        }
        assert found == {"2": [], "3": [made.id]}
        assert (await api.chat.completions.update(made.id, metadata=None)).metadata == {}
        assert len((await api.chat.completions.list(model="demo")).data) == 1
        for wrong, param in (
            ({"metadata": {"a": 1}}, "metadata.a"),
            ({"metadata": {"a": "b" * 513}}, "metadata.a"),
            ({"metadata": {str(index): "" for index in range(17)}}, "metadata"),
            ({}, "metadata"),
            ({"metadata": {}, "model": "x"}, "model"),
        ):
            answer = await served.post(f"{PATH}/{made.id}", wrong)
            assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_its_messages_are_listed(serving: Serving, settings: DatabaseSettings) -> None:
    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "three\0"}]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "one", "id": "mine", "name": "n"},
        {"role": "user", "content": parts},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "four", "tool_call_id": "c"},
    ]
    async with serving(["Hi"], database=settings) as served:
        id = (await served.post(PATH, {**ASKED, "messages": said})).json["id"]
        page = (await served.get(f"{PATH}/{id}/messages")).json
        assert [message["id"] for message in page["data"]] == [f"{id}-{index}" for index in range(4)]
        assert [message["content"] for message in page["data"]] == ["one", None, None, "four"]
        assert [message["content_parts"] for message in page["data"]] == [None, parts, None, None]
        assert page["data"][2]["tool_calls"] == [call] and page["data"][0]["name"] == "n"
        assistants = {**page["data"][2], "role": "assistant"}
        ChatCompletionStoreMessage.model_validate(assistants)
        page = (await served.get(f"{PATH}/{id}/messages?limit=2&order=desc&after={id}-3")).json
        assert [message["id"] for message in page["data"]] == [f"{id}-2", f"{id}-1"]
        assert page["has_more"] is True


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=" + "9" * 4000, "limit"),
        ("order=up", "order"),
        ("after=x", "after"),
        ("&".join(f"metadata[{index}]=a" for index in range(17)), "metadata"),
    ],
)
async def test_what_is_wrong_in_a_query_is_named(serving: Serving, tmp_path: Path, query: str, param: str) -> None:
    async with serving(["Hi"], database=file_in(tmp_path)) as served:
        answer = await served.get(f"{PATH}?{query}")
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        if param != "metadata":
            id = (await served.post(PATH, ASKED)).json["id"]
            answer = await served.get(f"{PATH}/{id}/messages?{query}")
            assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_more_metadata_than_may_be_noted_is_refused_before_anything_is_made(
    serving: Serving, tmp_path: Path
) -> None:
    async with serving(["Hi"], database=file_in(tmp_path)) as served:
        for stream in (False, True):
            answer = await served.post(PATH, {**ASKED, "metadata": {"a": [1]}, "stream": stream})
            assert (answer.status, answer.json["error"]["param"]) == (400, "metadata.a")
        assert not served.engine.requests


@pytest.mark.parametrize("id", ["x", "chatcmpl-" + "0" * 32, "%00", "chatcmpl-%F0%9F%98%80", "a/b", "x" * 4000])
async def test_what_is_not_there_is_not_found(serving: Serving, settings: DatabaseSettings, id: str) -> None:
    async with serving(["Hi"], database=settings) as served:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "")):
            answer = await served.request(method, f"{PATH}/{id}{path}", json={"metadata": {"a": "b"}})
            assert (answer.status, answer.json["error"]["code"]) == (404, "chat_completion_not_found")
            assert len(answer.body) < 1000


async def test_what_is_small_to_ask_for_and_large_to_read_is_bounded(serving: Serving, tmp_path: Path) -> None:
    text = "x" * 60_000
    bounds = {"max_body_bytes": 100_000, "max_bodies_bytes": 150_000}
    async with serving([text], database=file_in(tmp_path), **bounds) as served:
        ids = [(await served.post(PATH, ASKED)).json["id"] for _ in range(3)]
        # A page is no larger than a body.
        page = (await served.get(PATH)).json
        assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:1], True)
        page = (await served.get(f"{PATH}?after={ids[1]}")).json
        assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[2:], False)
        with served.ingress._services.bodies.room() as room:
            room.grow_to(100_000)
            for path in ("", f"/{ids[0]}", f"/{ids[0]}/messages"):
                answer = await served.get(PATH + path)
                assert (answer.status, answer.json["error"]["code"]) == (503, "bodies_over_budget")
            answer = await served.post(f"{PATH}/{ids[0]}", {"metadata": {}})
            assert answer.json["error"]["code"] == "bodies_over_budget"
        assert (await served.get(f"{PATH}/{ids[0]}")).status == 200


async def test_nobody_elses(serving: Serving, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        "tenants:\n"
        + "".join(
            f"  - name: {tenant}\n    keys:\n"
            + "".join(
                f"      - sha256: {hashlib.sha256(key.encode()).hexdigest()}\n" for key in KEYS if KEYS[key] == tenant
            )
            for tenant in dict.fromkeys(KEYS.values())
        )
    )
    async with serving(["Hi"], database=file_in(tmp_path), keys={"file": str(keys)}) as served:

        def headers(key: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {key}"}

        id = (await served.post(PATH, {**ASKED, "metadata": {"a": "b"}}, headers=headers("ours"))).json["id"]
        assert (await served.get(f"{PATH}/{id}", headers=headers("more"))).status == 200
        assert (await served.get(f"{PATH}/{id}")).status == 401
        for query in ("", "?model=demo", "?metadata[a]=b"):
            assert (await served.get(PATH + query, headers=headers("theirs"))).json["data"] == []
            assert len((await served.get(PATH + query, headers=headers("more"))).json["data"]) == 1
        for method, rest in (("GET", ""), ("GET", "/messages"), ("POST", ""), ("DELETE", "")):
            answer = await served.request(
                method, f"{PATH}/{id}{rest}", headers=headers("theirs"), json={"metadata": {"a": "c"}}
            )
            assert (answer.status, answer.json["error"]["code"]) == (404, "chat_completion_not_found")
        assert (await served.get(f"{PATH}/{id}", headers=headers("ours"))).json["metadata"] == {"a": "b"}


async def test_without_a_database_it_is_answered_and_not_stored(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        for stream in (False, True):
            assert (await served.post(PATH, {**ASKED, "metadata": {"any": [1]}, "stream": stream})).status == 200
        for method, path in (("GET", ""), ("GET", "/x"), ("POST", "/x"), ("DELETE", "/x"), ("GET", "/x/messages")):
            answer = await served.request(method, PATH + path, json={"metadata": {}})
            assert (answer.status, answer.json["error"]["code"]) == (400, "unsupported")
            assert "`database`" in answer.json["error"]["message"]


async def test_with_a_database_that_is_down_only_what_needs_it_waits(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], database=file_in(tmp_path / "no")) as served:
        for stream in (False, True):
            assert (await served.chat(stream=stream)).status == 200
            answer = await served.post(PATH, {**ASKED, "stream": stream})
            assert (answer.status, answer.json["error"]["code"]) == (503, "database_unavailable")
        assert (await served.get(PATH)).status == 503
        assert not served.engine.requests[2:]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_database_that_goes_away_meanwhile(serving: Serving, tmp_path: Path, stream: bool) -> None:
    databases: list[Database] = []

    def gone(_: Any) -> list[Any]:
        databases[0].problem = "It went away."
        return ["Hi"]

    async with serving(gone, database=file_in(tmp_path)) as served:
        databases.append(served.ingress._storage.database)
        answer = await served.post(PATH, {**ASKED, "stream": stream})
        error = events_of(answer.body)[-1]["error"] if stream else answer.json["error"]
        assert error["code"] == "database_unavailable"
