"""A handle of a model answers with a stream, wherever the tokens come from."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engines.agents.completion_client import CompletionClient
from engines.agents.completion_model import ChatStream
from engines.agents.retrying_model import RetryingModel
from engines.agents.scripted_model import ScriptedModel
from engines.context import Context
from engines.conversation.frames import Frame, Open
from engines.errors import (
    Cancelled,
    InstanceLost,
    InvalidRequest,
    NoInstance,
    QueueFull,
    StreamIncomplete,
    Timeout,
)
from engines.events import Finished, Started, TextDelta
from engines.operators.retry import RetryOptions
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.contract.asking import eventually
from tests.engines.conversation.talking import respond, texts, user
from tests.engines.operators.conftest import playing

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_handle_is_bound_to_its_model() -> None:
    engine = await playing("e", ["one ", "two"])
    model = CompletionClient(engine).model("llama")
    assert (model.name, model.model) == ("e", "llama")
    assert CompletionClient(engine, "handle").model("m").name == "handle"
    completion = await model.chat(HELLO)
    assert (completion.text, completion.model, engine.requests[0].model) == ("one two", "llama", "llama")
    await model.chat(GenerateRequest(model="another", prompt="p"))
    assert engine.requests[1].model == "llama"


async def test_awaiting_raises_setup_errors_and_the_stream_raises_stream_errors() -> None:
    engine = await playing("e", [QueueFull("full", retry_after_s=3.0)], ["one ", InstanceLost("gone")])
    model = CompletionClient(engine).model("m")
    with pytest.raises(QueueFull) as caught:
        await model.chat_stream(HELLO)
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 3.0)
    stream = await model.chat_stream(HELLO)
    assert isinstance(stream.started, Started)
    heard = []
    with pytest.raises(InstanceLost):
        async for event in stream:
            heard.append(event)  # noqa: PERF401 - what came before the error is kept
    assert [type(event) for event in heard] == [Started, TextDelta]


async def test_a_conversation_is_one_of_chats_with_the_model() -> None:
    engine = await playing("e", [QueueFull("full")], ["A"], ["B"])
    frames: list[Frame] = [Open(model="any"), user("1", "a"), respond("t"), user("2", "b"), respond("u")]

    async def written() -> AsyncIterator[Frame]:
        for frame in frames:
            yield frame

    model = RetryingModel(CompletionClient(engine).model("llama"), RetryOptions(base_s=0.001))
    events = [event async for event in model.converse(written())]
    assert texts(events) == {"t": "A", "u": "B"}
    assert {request.model for request in engine.requests} == {"llama"}
    assert len(engine.requests[2].messages or ()) == 3


async def test_a_request_that_is_none_names_the_field() -> None:
    model = CompletionClient(await playing("e", ["one"])).model("m")
    with pytest.raises(InvalidRequest) as caught:
        await model.chat_stream({"messages": [{"role": "nobody", "content": "hi"}]})
    assert caught.value.param == "messages.0.role"


async def test_leaving_a_stream_frees_the_engine() -> None:
    engine = await playing("e", ["one ", Hang()])
    model = CompletionClient(engine).model("m")
    async with await model.chat_stream(HELLO) as stream:
        assert [type(await anext(stream)), type(await anext(stream))] == [Started, TextDelta]
    await eventually(lambda: engine.load().running == 0)
    assert stream.context.is_killed
    dropped: ChatStream | None = await model.chat_stream(HELLO)
    assert dropped is not None and engine.load().running == 1
    dropped = None
    await eventually(lambda: engine.load().running == 0)


async def test_a_stream_can_be_stopped_from_outside_and_is_read_once() -> None:
    engine = await playing("e", ["one ", Hang()])
    context = Context("mine")
    stream = await CompletionClient(engine).model("m").chat_stream(HELLO, context)
    assert [type(await anext(stream)) for _ in range(2)] == [Started, TextDelta]
    context.stop()
    (last,) = [event async for event in stream]
    assert isinstance(last, Finished) and last.reason == "cancelled"
    with pytest.raises(StreamIncomplete):
        await stream.completion()


async def test_a_deadline_ends_it() -> None:
    model = CompletionClient(await playing("e", ["one ", Hang()])).model("m")
    with pytest.raises(Timeout):
        await model.chat(HELLO, Context(deadline_s=time.monotonic() + 0.05))


async def test_retrying_model_wraps_any_and_tries_setup_errors_again() -> None:
    scripted = ScriptedModel([QueueFull("full")], [NoInstance("none")], ["hi"], model="m")
    retrying = RetryingModel(scripted, RetryOptions(base_s=0.001))
    assert (retrying.name, retrying.model) == ("scripted", "m")
    assert (await retrying.chat(HELLO)).text == "hi" and len(scripted.requests) == 3
    broken = ScriptedModel(["a ", InstanceLost("gone")])
    with pytest.raises(InstanceLost):
        await RetryingModel(broken, RetryOptions(base_s=0.001)).chat(HELLO)
    assert len(broken.requests) == 1


async def test_retrying_model_gives_up_when_its_caller_does() -> None:
    scripted, context = ScriptedModel([NoInstance("none")]), Context()
    asking = asyncio.ensure_future(RetryingModel(scripted, RetryOptions(base_s=60.0)).chat_stream(HELLO, context))
    await eventually(lambda: len(scripted.requests) == 1)
    context.stop()
    with pytest.raises(Cancelled):
        await asking


async def test_a_scripted_model_answers_by_function_too() -> None:
    model = ScriptedModel(answer=lambda request: [f"You said {request.messages[0].content}."])  # type: ignore[index]
    assert (await model.chat(HELLO)).text == "You said hi."
    with pytest.raises(ValueError, match="not both"):
        ScriptedModel()


async def test_every_event_of_an_answer_comes() -> None:
    stream = await ScriptedModel(["a", "b"]).chat_stream(HELLO)
    events = [event async for event in stream]
    assert [type(event) for event in events] == [Started, TextDelta, TextDelta, Finished]
    await stream.aclose()
    await stream.aclose()


async def test_a_stopped_engine_is_a_setup_error() -> None:
    with pytest.raises(Exception, match="not ready"):
        await CompletionClient(ScriptedEngine("e")).model("m").chat_stream(HELLO)
