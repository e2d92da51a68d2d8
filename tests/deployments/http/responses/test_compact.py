"""A conversation in short: what stands for it is the model's own summary, which only its tenant's requests open."""

from typing import Any

import pytest

from deployments.fleet_settings import DatabaseSettings
from engines.errors import Timeout
from engines.events import Finished, Usage
from tests.deployments.http.conftest import Serving
from tests.deployments.http.responses.talking import ASKED, PATH, ask, client

SUMMARY = ["They said ", "hello.", Finished(("stop",), Usage(10, 4, 2, 0), "demo-0")]
TURNS: list[Any] = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "Hi."}]


async def test_what_stands_for_a_conversation_goes_on_as_it(serving: Serving) -> None:
    async with serving(SUMMARY) as served, client(served) as api:
        short = await api.responses.compact(model="demo", input=TURNS, instructions="Be kind.")
        (item,) = short.output
        assert (short.object, item.type) == ("response.compaction", "compaction")
        assert "hello" not in item.encrypted_content
        assert (short.usage.input_tokens, short.usage.output_tokens) == (10, 4)
        next_turn = {"role": "user", "content": "go on"}
        assert (await ask(served, input=[item.to_dict(), next_turn])).status == 200
        first, second = served.engine.requests
        again = await api.responses.compact(model="demo", input=[item.to_dict(), next_turn])
        assert again.output[0].encrypted_content != item.encrypted_content
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "user"]
    assert first.messages[-1].content.startswith("Summarize our conversation so far.")
    assert [message.content for message in second.messages] == [
        "The conversation so far, as you have summarized it:\n\nThey said hello.",
        "go on",
    ]


async def test_a_stored_conversation_is_made_short(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(SUMMARY, database=settings) as served, client(served) as api:
        stored = await api.responses.create(**ASKED)
        short = await api.responses.compact(model="demo", previous_response_id=stored.id)
        item = short.output[0].to_dict()
        # It may be stored itself, and be gone on from.
        second = await api.responses.create(model="demo", input=[item, TURNS[0]])
        await api.responses.create(model="demo", input="go on", previous_response_id=second.id)
        listed = (await served.get(f"{PATH}/{second.id}/input_items?order=asc")).json["data"]
        assert listed[0] == {**item, "status": "completed"}
        assert [message.content for message in served.engine.requests[1].messages[:-1]] == [
            "hello there",
            "They said hello.",
        ]
        assert "They said hello." in served.engine.requests[-1].messages[0].content


async def test_a_session_of_openais_agents_is_made_short(serving: Serving, settings: DatabaseSettings) -> None:
    """The SDK takes names of OpenAI's models alone, so this is by an alias."""
    from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, SQLiteSession
    from agents.memory import OpenAIResponsesCompactionSession

    async with serving(SUMMARY, aliases={"gpt-5": "demo"}, database=settings) as served, client(served) as api:
        agent = Agent(name="a", model=OpenAIResponsesModel("gpt-5", api))
        kept = SQLiteSession("one")
        session = OpenAIResponsesCompactionSession(
            "one", kept, client=api, model="gpt-5", should_trigger_compaction=lambda _: True
        )
        for text in ("hello there", "go on"):
            await Runner.run(agent, text, session=session, run_config=RunConfig(tracing_disabled=True))
            assert [item["type"] for item in await kept.get_items()] == ["compaction"]
        kept.close()
    _, _, second, _ = served.engine.requests
    assert [message.content for message in second.messages] == [
        "The conversation so far, as you have summarized it:\n\nThey said hello.",
        "go on",
    ]


@pytest.mark.parametrize("sealed", ["", "x", "reasoning", "\u2603"])
async def test_what_was_not_made_here_is_refused_by_name(serving: Serving, sealed: str) -> None:
    async with serving(SUMMARY) as served, client(served) as api:
        if sealed == "reasoning":
            # What a model has thought stands for no conversation.
            secret = served.ingress._services.secret
            sealed = secret.seal("responses reasoning", b'{"tenant": "", "text": "a", "redacted": null}')
        answer = await ask(served, input=[{"type": "compaction", "encrypted_content": sealed}, TURNS[0]])
        assert (answer.status, answer.json["error"]["param"]) == (400, "input[0].encrypted_content")
        short = await api.responses.compact(model="demo", input=TURNS)
        item = {"type": "reasoning", "summary": [], "encrypted_content": short.output[0].encrypted_content}
        answer = await ask(served, input=[item, TURNS[0]])
        assert (answer.status, answer.json["error"]["param"]) == (400, "input[0].encrypted_content")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"image": {"context_compression": "enabled"}}, "image"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tools": []}, "tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
async def test_refusals(serving: Serving, fields: dict[str, Any], param: str) -> None:
    async with serving(SUMMARY) as served:
        answer = await served.post(f"{PATH}/compact", {**ASKED, **fields})
        assert (answer.status, answer.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("script", "status"), [([Finished(("stop",), Usage(), "demo-0")], 500), (["a", 0.01, Timeout("total", 3)], 504)]
)
async def test_no_summary_is_no_compaction(serving: Serving, script: list[Any], status: int) -> None:
    async with serving(script) as served:
        assert (await served.post(f"{PATH}/compact", ASKED)).status == status
