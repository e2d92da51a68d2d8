"""Any sequence of events, in any rhythm, says the same as a stream as it does as a whole answer."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.http.openai.chat_chunks import ChatChunks
from deployments.http.openai.stream_format import CompletionStream
from deployments.http.server.sse_stream import Flusher, SseStream
from deployments.http.server.stream_format import StreamReport
from deployments.request_meter import RequestMeter
from engines.completion import Completion, CompletionBuilder
from engines.errors import InstanceLost
from engines.events import (
    Event,
    Finished,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from tests.deployments.http.server.scripted_streams import LOGPROBS, TEXT, Pipe

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple)
CHOICES = 3


@st.composite
def answers(draw: st.DrawFn) -> list[Event | str]:
    """The events of one answer, with `turn`, `block`, `unblock` and `measure` between them."""
    n = draw(st.integers(1, CHOICES))
    calls = [0] * n
    script: list[Event | str] = [Started("engine", "model", 3)]
    for _ in range(draw(st.integers(0, 25))):
        index = draw(st.integers(0, n - 1))
        match draw(
            st.sampled_from(["text", "reason", "redact", "call", "args", "end", "turn", "block", "unblock", "measure"])
        ):
            case "text":
                script.append(TextDelta(draw(TEXT), index, draw(IDS), draw(LOGPROBS)))
            case "reason":
                script.append(ReasoningDelta(draw(TEXT), index, draw(IDS)))
            case "redact":
                script.append(RedactedReasoning(draw(TEXT), index))
            case "call":
                script.append(ToolCallStarted(calls[index], draw(TEXT), draw(TEXT), index, draw(IDS)))
                calls[index] += 1
            case "args" if calls[index]:
                call = draw(st.integers(0, calls[index] - 1))
                script.append(ToolCallArgumentsDelta(call, draw(TEXT), index, draw(IDS)))
            case "end" if calls[index]:
                script.append(ToolCallFinished(calls[index] - 1, index, draw(IDS)))
            case ("turn" | "block" | "unblock" | "measure") as word:
                script.append(word)
    script.append(Finished(("stop",) * n, Usage(3, 5, 1, 2), "engine", tuple(draw(TEXT) for _ in range(n))))
    return script


async def streamed(script: list[Event | str], report: StreamReport) -> bytes:
    chunks = CompletionStream("chatcmpl-1", "chat.completion.chunk", 'mo"del\u2603', 1, report, request_id="1")
    stream = SseStream(chunks, Flusher(), RequestMeter("test"))
    sink = stream.sink([ChatChunks(chunks, index) for index in range(CHOICES)])
    pipe = Pipe()
    stream.open(pipe)
    for step in script:
        match step:
            case "turn":
                await asyncio.sleep(0)
            case "block":
                pipe.writable = False
            case "measure":
                stream.measure()
            case "unblock":
                pipe.writable = True
                stream.flush()
            case _:
                assert not isinstance(step, str)
                sink.emit(step)
    await asyncio.wait([stream.ended])
    said = b"".join(pipe.writes) + stream.take()
    stream.close()
    return said


def reassembled(body: bytes) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """What a client makes of the chunks."""
    assert body.endswith(b"\n\n")
    lines = body.decode("ascii").split("\n\n")[:-1]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk.get("choices", []):
            empty = {"text": "", "reasoning": "", "redacted": [], "calls": {}, "ids": [], "logprobs": [], "roles": 0}
            mine = choices.setdefault(part["index"], {**empty, "finish": None})
            assert mine["finish"] is None, "a chunk after the last one"
            delta = part["delta"]
            mine["roles"] += "role" in delta
            mine["text"] += delta.get("content", "")
            mine["reasoning"] += delta.get("reasoning", "")
            assert delta.get("reasoning") == delta.get("reasoning_content")
            mine["redacted"] += [delta["redacted_reasoning"]] if "redacted_reasoning" in delta else []
            mine["ids"] += part.get("token_ids", [])
            mine["logprobs"] += (part["logprobs"] or {}).get("content", [])
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["index"] not in mine["calls"]
                    mine["calls"][call["index"]] = [call["id"], call["function"]["name"], ""]
                else:
                    mine["calls"][call["index"]][2] += call["function"]["arguments"]
            if part["finish_reason"] is not None:
                mine["finish"] = (part["finish_reason"], part["stop_reason"])
    return choices, chunks


def completion_of(script: list[Event | str]) -> Completion:
    builder = CompletionBuilder()
    for step in script:
        completion = None if isinstance(step, str) else builder.add(step)
        if completion is not None:
            return completion
    raise AssertionError("no Finished")


@given(script=answers(), report=st.builds(StreamReport, st.booleans(), st.booleans(), st.booleans()))
@settings(max_examples=150, deadline=None)
def test_a_stream_says_what_the_whole_answer_says(script: list[Event | str], report: StreamReport) -> None:
    choices, chunks = reassembled(asyncio.run(streamed(script, report)))
    completion = completion_of(script)
    assert sorted(choices) == list(range(len(completion.choices)))
    for index, whole in enumerate(completion.choices):
        mine = choices[index]
        assert mine["roles"] == 1
        assert mine["text"] == whole.text
        assert mine["reasoning"] == whole.reasoning
        assert tuple(mine["redacted"]) == whole.redacted_reasoning
        calls = tuple((call.id, call.name, call.arguments) for call in whole.tool_calls)
        assert tuple(tuple(mine["calls"][call]) for call in sorted(mine["calls"])) == calls
        assert len(mine["logprobs"]) == len(whole.logprobs or ())
        assert mine["finish"] == (whole.reason, whole.stop_reason)
        if report.token_ids:
            assert tuple(mine["ids"]) == whole.token_ids
    if report.usage:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == completion.usage.completion_tokens
    assert {chunk["model"] for chunk in chunks} == {'mo"del\u2603'}


async def test_what_is_said_in_one_turn_is_one_write_and_one_chunk() -> None:
    chunks = CompletionStream("chatcmpl-1", "chat.completion.chunk", "demo", 1, StreamReport(), request_id="1")
    stream = SseStream(chunks, Flusher(), RequestMeter("test"))
    sink = stream.sink([ChatChunks(chunks, 0)])
    pipe = Pipe()
    stream.open(pipe)
    sink.emit(Started("engine", "demo"))
    for text in ("a", "b", "c"):
        sink.emit(TextDelta(text))
    assert pipe.writes == []
    await asyncio.sleep(0)
    assert len(pipe.writes) == 1
    assert pipe.writes[0].count(b"data: ") == 2
    assert b'"content":"abc"' in pipe.writes[0]


async def test_while_blocked_a_million_events_are_one_chunk() -> None:
    chunks = CompletionStream("chatcmpl-1", "chat.completion.chunk", "demo", 1, StreamReport(), request_id="1")
    stream = SseStream(chunks, Flusher(), RequestMeter("test"))
    sink = stream.sink([ChatChunks(chunks, 0)])
    pipe = Pipe()
    pipe.writable = False
    stream.open(pipe)
    sink.emit(Started("engine", "demo"))
    for _ in range(100_000):
        sink.emit(TextDelta("ab"))
    await asyncio.sleep(0)
    assert pipe.writes == []
    pipe.writable = True
    stream.flush()
    assert len(pipe.writes) == 1
    assert len(pipe.writes[0]) < 200_000 + 1000


@pytest.mark.parametrize("said", [[], ["Hel"]])
async def test_an_error_comes_after_everything_that_was_said(said: list[str]) -> None:
    chunks = CompletionStream(
        "chatcmpl-1", "chat.completion.chunk", "demo", 1, StreamReport(usage=True), request_id="1"
    )
    stream = SseStream(chunks, Flusher(), RequestMeter("test"))
    sink = stream.sink([ChatChunks(chunks, 0)])
    stream.open(Pipe())
    sink.emit(Started("engine", "demo"))
    for text in said:
        sink.emit(TextDelta(text))
    sink.fail(InstanceLost('It "failed".'))
    *said_so_far, error, done, empty = stream.take().decode().split("\n\n")
    assert len(said_so_far) == 2 * len(said)
    assert json.loads(error[6:])["error"]["message"] == 'It "failed".'
    assert (done, empty) == ("data: [DONE]", "")
