"""What a session says to its client's events."""

from typing import Any

import pytest

from engines.errors import InstanceLost
from engines.events import ToolCallArgumentsDelta, ToolCallFinished, ToolCallStarted
from engines.requests import GenerateRequest
from engines.scripted.script import Hang
from tests.deployments.http.conftest import Serving
from tests.deployments.http.realtime.talking import talking, text_of

USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
TOOL = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}
CALL = [ToolCallStarted(0, "call-1", "add"), ToolCallArgumentsDelta(0, '{"a": 1}'), ToolCallFinished(0)]


def echo(request: GenerateRequest) -> list[Any]:
    """Says the last message, and how many there were."""
    messages = request.messages or ()
    return [f"{messages[-1].content}", f" ({len(messages)})"]


def said_to(request: GenerateRequest) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in request.messages or ()]


async def test_turn_after_turn(serving: Serving) -> None:
    async with serving(echo) as served, talking(served) as talk:
        first = await talk.says("one")
        assert (first["status"], text_of(first)) == ("completed", "one (1)")
        assert first["usage"]["output_tokens"] > 0
        assert text_of(await talk.says("two")) == "two (3)"
        assert [kind for kind in talk.types() if kind.startswith("response")][:9] == [
            "response.created",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        ids = [event["event_id"] for event in talk.heard]
        assert len(set(ids)) == len(ids)
        added = [event for event in talk.heard if event["type"] == "conversation.item.added"]
        assert [event["item"]["role"] for event in added] == ["user", "assistant", "user", "assistant"]
        order = [event["item"]["id"] for event in added]
        assert [event["previous_item_id"] for event in added] == [None, *order[:-1]]


async def test_a_session_says_how_its_responses_are_made(serving: Serving) -> None:
    async with serving(echo) as served, talking(served) as talk:
        created = talk.heard[0]["session"]
        assert (created["output_modalities"], created["model"], created["tools"]) == (["text"], "demo", [])
        session = {"type": "realtime", "instructions": "Be brief.", "max_output_tokens": 9, "tools": [TOOL]}
        await talk.send("session.update", session=session)
        updated = (await talk.until("session.updated"))["session"]
        assert (updated["instructions"], updated["max_output_tokens"]) == ("Be brief.", 9)
        assert updated["tools"] == [TOOL]
        await talk.says("one")
        await talk.says("two", instructions="Be long.", max_output_tokens="inf")
        one, two = served.engine.requests
        assert said_to(one)[0] == ("system", "Be brief.") and said_to(two)[0] == ("system", "Be long.")
        assert (one.sampling.max_tokens, two.sampling.max_tokens) == (9, None)
        assert one.tools[0].function.name == two.tools[0].function.name == "add"


async def test_a_tool_is_called_and_answered(serving: Serving) -> None:
    def script(request: GenerateRequest) -> list[Any]:
        return ["It is 2."] if (request.messages or ())[-1].role == "tool" else ["I add.", *CALL]

    async with serving(script) as served, talking(served) as talk:
        await talk.send("session.update", session={"type": "realtime", "tools": [TOOL], "tool_choice": "auto"})
        message, call = (await talk.says("add 1 and 1"))["output"]
        assert (message["type"], call["type"], call["arguments"]) == ("message", "function_call", '{"a": 1}')
        assert "response.function_call_arguments.done" in talk.types()
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
        await talk.send("conversation.item.create", item=output)
        await talk.send("response.create")
        assert text_of(await talk.done()) == "It is 2."
        asked = served.engine.requests[1].messages or []
        assert [message.role for message in asked] == ["user", "assistant", "tool"]
        assert (asked[1].content, (asked[1].tool_calls or [])[0].id) == ("I add.", "call-1")
        assert asked[2].tool_call_id == "call-1"


async def test_items_are_put_read_and_taken_out(serving: Serving) -> None:
    async with serving(echo) as served, talking(served) as talk:
        for id, after in {"a": None, "b": None, "c": "a", "d": "root"}.items():
            await talk.send("conversation.item.create", item=USER | {"id": id}, previous_item_id=after)
            added = await talk.until("conversation.item.added")
            assert added["previous_item_id"] == {"a": None, "b": "a", "c": "a", "d": None}[id]
        await talk.send("conversation.item.retrieve", item_id="c")
        assert (await talk.until("conversation.item.retrieved"))["item"]["content"] == USER["content"]
        await talk.send("conversation.item.delete", item_id="c")
        assert (await talk.until("conversation.item.deleted"))["item_id"] == "c"
        await talk.send("response.create")
        assert text_of(await talk.done()) == "hi (3)"


async def test_a_response_beside_the_conversation(serving: Serving) -> None:
    def script(request: GenerateRequest) -> list[Any]:
        return ["busy", Hang(hang=True)] if said_to(request)[-1][1] == "wait" else echo(request)

    async with serving(script) as served, talking(served) as talk:
        await talk.send("conversation.item.create", item=USER | {"id": "a"})
        wait = USER | {"content": [{"type": "input_text", "text": "wait"}]}
        await talk.send("conversation.item.create", item=wait)
        await talk.send("response.create")
        await talk.until("response.output_text.delta")
        reference = {"type": "item_reference", "id": "a"}
        other = USER | {"content": [{"type": "input_text", "text": "beside"}]}
        aside = {"conversation": "none", "input": [reference, other], "metadata": {"topic": "x"}}
        await talk.send("response.create", response=aside)
        done = await talk.done()
        assert (text_of(done), done["metadata"], done["conversation_id"]) == ("beside (2)", {"topic": "x"}, None)
        await talk.send("response.create", event_id="mine")
        error = await talk.refused()
        assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "mine")
        await talk.send("response.cancel")
        cancelled = await talk.done()
        assert (cancelled["status"], cancelled["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert (text_of(cancelled), cancelled["output"][0]["status"]) == ("busy", "incomplete")
        await talk.send("response.cancel")
        assert (await talk.refused())["code"] == "response_cancel_not_active"


async def test_a_call_that_was_complete_is_when_the_answer_is_cut_off_after_it(serving: Serving) -> None:
    async with serving([*CALL, "half", Hang(hang=True)]) as served, talking(served) as talk:
        await talk.send("conversation.item.create", item=USER)
        await talk.send("response.create")
        await talk.until("response.output_text.delta")
        await talk.send("response.cancel")
        output = (await talk.done())["output"]
        assert [item["status"] for item in output] == ["completed", "incomplete"]
        ended = [event["item"] for event in talk.heard if event["type"] == "response.output_item.done"]
        assert ended == output


async def test_text_that_is_still_being_written(serving: Serving) -> None:
    async with serving(echo) as served, talking(served) as talk:
        for piece in ("one ", "two ", "thr"):
            await talk.send("input_text_buffer.append", text=piece)
        await talk.send("conversation.item.create", item=USER)
        await talk.send("input_text_buffer.append", text="ee")
        await talk.send("input_text_buffer.commit")
        committed = await talk.until("input_text_buffer.committed")
        added = await talk.until("conversation.item.done")
        assert committed["item_id"] == added["item"]["id"]
        await talk.send("response.create")
        assert text_of(await talk.done()) == "one two three (2)"
        await talk.send("input_text_buffer.commit")
        assert "no text to commit" in (await talk.refused())["message"]
        await talk.send("input_text_buffer.append", text="x")
        await talk.send("input_text_buffer.clear")
        await talk.until("input_text_buffer.cleared")
        assert text_of(await talk.says("y")) == "y (4)"


async def test_a_response_that_fails_is_not_the_end(serving: Serving) -> None:
    scripts = iter([["half", InstanceLost("Gone.")], ["whole"]])
    async with serving(lambda _: next(scripts)) as served, talking(served) as talk:
        failed = await talk.says("one")
        assert failed["status"] == "failed"
        assert failed["status_details"]["error"]["code"] == "instance_lost"
        assert text_of(await talk.says("two")) == "whole"
        assert said_to(served.engine.requests[1]) == [("user", "one"), ("user", "two")]


DEEP = {"type": "function_call", "name": "f", "call_id": "1", "arguments": "[" * 50_000}
SOUND = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]}


@pytest.mark.parametrize(
    ("event", "param", "words"),
    [
        ({"type": "session.updte"}, "type", "Did you mean 'session.update'"),
        ({"type": 5}, "type", "it is a text"),
        ({}, "type", "an event has one"),
        ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "type", "is about audio"),
        ({"type": "conversation.item.truncate", "item_id": "a"}, "type", "is about audio"),
        ({"type": "session.update", "session": {"type": "realtime", "voice": "x"}}, "session.voice", ""),
        (
            {"type": "session.update", "session": {"output_modalities": ["audio"]}},
            "session.output_modalities",
            "text alone",
        ),
        ({"type": "session.update", "session": {"audio": {"input": {}}}}, "session.audio", "not supported"),
        ({"type": "session.update", "session": {"model": "other"}}, "session.model", "keeps the one"),
        ({"type": "session.update", "session": {"max_output_tokens": 0}}, "session.max_output_tokens", ""),
        ({"type": "session.update", "session": {"tools": [{"type": "mcp"}]}}, "session.tools[0].type", ""),
        ({"type": "conversation.item.create", "item": SOUND}, "item.content[0].type", "input_audio is not supported"),
        ({"type": "conversation.item.create", "item": {"type": "nothing"}}, "item", ""),
        ({"type": "conversation.item.create", "item": DEEP}, "item.arguments", ""),
        ({"type": "conversation.item.create", "item": USER, "previous_item_id": "no"}, "previous_item_id", "no item"),
        ({"type": "conversation.item.delete", "item_id": "no"}, "item_id", "there is none"),
        ({"type": "conversation.item.retrieve", "item_id": "no"}, "item_id", "there is none"),
        ({"type": "response.cancel", "response_id": "no"}, "response_id", "no response under way"),
        ({"type": "response.create", "response": {"input": []}}, "response.input", "empty"),
        (
            {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "no"}]}},
            "response.input[0].id",
            "there is none",
        ),
        ({"type": "response.create", "response": {"tool_choice": "required"}}, None, ""),
        ({"type": "response.create", "event_id": 5}, "event_id", ""),
    ],
)
async def test_what_is_wrong_is_named_and_the_session_goes_on(
    serving: Serving, event: dict[str, Any], param: str | None, words: str
) -> None:
    async with serving(echo) as served, talking(served) as talk:
        await talk.socket.send_json(event)
        if param is None:
            await talk.until("response.done")
        else:
            error = await talk.refused()
            assert error["param"] == param
            assert words in error["message"]
            assert error["type"] == "invalid_request_error"
        assert text_of(await talk.says("still here")).startswith("still here")
