"""The engines `openai` and `azure` against a server that answers well, badly, or not at all."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import (
    Cancelled,
    EngineFailed,
    InstanceLost,
    NotReady,
    PenstockError,
    ProviderRefused,
    QueueFull,
    RateLimited,
    StreamIncomplete,
    Timeout,
    Unsupported,
)
from engines.events import Started, TextDelta
from engines.operators.attachments import Attachments
from engines.operators.link import link
from engines.pooling_requests import PoolingRequest, ScoreRequest
from engines.registry import EngineSpec, make_engine
from engines.remote import http_client
from engines.remote.json_slices import loads_in_slices
from tests.contract.asking import Recorder, eventually
from tests.engines.attachments.pictures import PDF, WAV, audio, document, image, png, said
from tests.engines.remote.replay import Replay, Reply, replaying
from tests.engines.remote.wire import STREAMS, TEXT, chunk, event, request

KEY = "sk-secret-0123456789"
GOOD = Reply([TEXT])


@asynccontextmanager
async def remote(replay: Replay, kind: str = "openai", **options: Any) -> AsyncIterator[Engine]:
    path = "" if kind == "azure" else "/v1"
    spec = EngineSpec(kind=kind, model="model", options={"base_url": replay.url + path, **options})
    engine = make_engine("remote-0", spec)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(5)


async def answer(engine: Engine, **fields: Any) -> str:
    async with asyncio.timeout(60):
        return (await collect(engine.generate(request(**fields), Context()))).text


@pytest.mark.parametrize("what", STREAMS)
async def test_a_stream_is_told_event_by_event(what: str) -> None:
    data, expected = STREAMS[what]
    pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
    async with replaying(Reply(pieces)) as replay, remote(replay) as engine:
        events = [event async for event in engine.generate(request(), Context())]
        assert events == [Started("remote-0", "model"), *expected]
        assert engine.load().running == 0


async def test_connections_are_used_again() -> None:
    async with replaying(GOOD) as replay, remote(replay) as engine:
        for _ in range(3):
            assert await answer(engine)
        await eventually(lambda: len(replay.posts) == 3)
        assert replay.connections == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply([b"<html>Welcome</html>"], type="text/html"), EngineFailed),
        (Reply([b'{"error": {"message": "boom", "type": "server_error"}}'], type="application/json"), InstanceLost),
        (Reply([b'{"choices": []}'], type="application/json"), EngineFailed),
        (Reply([event({"error": {"message": "boom", "code": 401}})]), ProviderRefused),
        (Reply([b"data: {nonsense\n\n"]), InstanceLost),
        (Reply([b"data: " + b"x" * 5_000_000]), InstanceLost),
        (Reply([b"\xff\xfe\n"]), StreamIncomplete),
        (Reply([b": only a comment\n\n"]), StreamIncomplete),
        (Reply([]), StreamIncomplete),
        (Reply([], end="cut"), InstanceLost),
        (Reply([], end="reset"), InstanceLost),
        (Reply([], end="hang"), Timeout),
        (Reply([], end="silent"), Timeout),
        (Reply([b"{"], status=429, type="application/json", end="cut"), RateLimited),
        (Reply([b"{"], status=429, type="application/json", end="hang"), RateLimited),
        (Reply([b"moved"], status=302, headers={"Location": "http://example.com"}), EngineFailed),
    ],
)
async def test_what_goes_wrong_before_the_first_event_is_a_setup_error(
    reply: Reply, expected: type[PenstockError]
) -> None:
    async with replaying(reply, GOOD) as replay, remote(replay, idle_s=0.2) as engine:
        recorder = Recorder()
        with pytest.raises(expected) as caught:
            await engine.submit(request(), Context(), recorder)
        assert not recorder.events and recorder.error is None
        assert caught.value.instance == "remote-0"
        assert engine.load().running == 0
        assert await answer(engine), "the next request is answered"
        if isinstance(caught.value, Timeout):
            assert caught.value.phase == "first_token"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply([chunk({"content": "a"})]), StreamIncomplete),
        (Reply([chunk({"content": "a"}), b"data: {half"]), StreamIncomplete),
        (Reply([chunk({"content": "a"})], end="cut"), InstanceLost),
        (Reply([chunk({"content": "a"})], end="reset"), InstanceLost),
        (Reply([chunk({"content": "a"})], end="hang"), Timeout),
        (Reply([chunk({"content": "a"}), b"data: nonsense\n\n"]), InstanceLost),
        (Reply([chunk({"content": "a"}), event({"error": {"message": "boom"}})]), InstanceLost),
    ],
)
async def test_what_goes_wrong_later_ends_the_stream(reply: Reply, expected: type[PenstockError]) -> None:
    async with replaying(reply) as replay, remote(replay, idle_s=0.2) as engine:
        recorder = Recorder()
        await engine.submit(request(), Context(), recorder)
        await recorder.over()
        assert recorder.text == "a"
        assert type(recorder.error) is expected
        if isinstance(recorder.error, Timeout):
            assert recorder.error.phase == "between_tokens"


@pytest.mark.parametrize("kept", [b": waiting\n\n", b"event: ping\ndata: {}\n\n", b"d"])
async def test_what_is_no_part_of_an_answer_does_not_keep_a_stream_for_ever(
    kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "SILENCES", 0.1)
    replies = [Reply([kept], end="again"), Reply([chunk({"content": "a"}), kept], end="again")]
    async with replaying(*replies) as replay, remote(replay, idle_s=5) as engine:
        for phase in ("first_token", "between_tokens"):
            with pytest.raises(Timeout) as caught:
                await answer(engine)
            assert caught.value.timeout_s == 0.5
            if b"ping" not in kept:
                assert caught.value.phase == phase
        await eventually(lambda: replay.left == 2)


async def test_a_stream_that_goes_on_may_take_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCES", 0.1)
    many = Reply([chunk({"content": "a"})], end="again")
    async with replaying(many) as replay, remote(replay, idle_s=5) as engine:
        context = Context()
        recorder = Recorder(lambda deltas: context.stop() if deltas == 80 else None)
        await engine.submit(request(), context, recorder)
        await recorder.over()
        assert recorder.finished is not None


async def test_a_complete_answer_survives_a_reset_in_place_of_its_end() -> None:
    for end in ("cut", "reset", "hang"):
        reply = Reply([chunk({"content": "a"}), chunk(reason="stop")], end=end)
        async with replaying(reply) as replay, remote(replay, idle_s=0.2) as engine:
            assert await answer(engine) == "a"


async def test_bytes_that_are_no_http_are_an_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = {"base_url": f"http://127.0.0.1:{port}"}
        engine = make_engine("remote-0", EngineSpec(kind="openai", model="model", options=options))
        await engine.start()
        with pytest.raises(InstanceLost):
            await answer(engine)
        await engine.stop()


async def test_a_server_that_does_not_read_is_given_up() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = {"base_url": f"http://127.0.0.1:{port}", "idle_s": 0.2, "connect_s": 0.2}
        engine = make_engine("remote-0", EngineSpec(kind="openai", model="model", options=options))
        await engine.start()
        with pytest.raises(Timeout):
            await answer(engine, messages=[{"role": "user", "content": "x" * 20_000_000}])
        left.set()
        await engine.stop()


async def test_a_server_that_is_not_there_is_lost_and_does_not_keep_the_engine_from_starting() -> None:
    async with replaying(GOOD) as replay:
        pass
    async with remote(replay, api_key_env=None) as engine:
        assert engine.ready
        with pytest.raises(InstanceLost) as caught:
            await answer(engine)
        assert str(replay.port) not in caught.value.message
        with pytest.raises(InstanceLost):
            await engine.check_health()


@pytest.mark.parametrize("how", ["stop", "kill", "drop"])
async def test_a_cancelled_request_closes_its_connection(how: str) -> None:
    async with replaying(Reply([chunk({"content": "a"})], end="hang")) as replay, remote(replay) as engine:
        if how == "drop":
            events = engine.generate(request(), Context())
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
        else:
            context = Context()
            recorder = Recorder()
            await engine.submit(request(), context, recorder)
            await eventually(lambda: recorder.deltas == 1)
            getattr(context, how)()
            await recorder.over()
            if how == "stop":
                assert recorder.finished is not None and recorder.finished.reason == "cancelled"
            else:
                assert isinstance(recorder.error, Cancelled)
            assert recorder.text == "a"
        await eventually(lambda: replay.left == 1)
        assert engine.load().running == 0


@pytest.mark.parametrize("how", ["stop", "kill", "cancel the task"])
async def test_a_request_can_be_cancelled_before_the_server_says_anything(how: str) -> None:
    async with replaying(Reply(end="silent")) as replay, remote(replay) as engine:
        context = Context()
        recorder = Recorder()
        submitting = asyncio.ensure_future(engine.submit(request(), context, recorder))
        await eventually(lambda: len(replay.posts) == 1)
        if how == "stop":
            context.stop()
            await submitting
            assert recorder.finished is not None and recorder.finished.reason == "cancelled"
        elif how == "kill":
            context.kill()
            with pytest.raises(Cancelled):
                await submitting
        else:
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
        await eventually(lambda: replay.left == 1)
        assert engine.load().running == 0


async def test_more_requests_than_it_takes_at_a_time_are_refused() -> None:
    hanging = Reply([chunk({"content": "a"})], end="hang")
    async with replaying(hanging, hanging, GOOD) as replay, remote(replay, max_concurrent=2) as engine:
        context = Context()
        for _ in range(2):
            await engine.submit(request(), context, Recorder())
        assert engine.load().running == 2
        with pytest.raises(QueueFull):
            await answer(engine)
        context.stop()
        assert await answer(engine)


async def test_stopping_the_engine_ends_what_is_under_way() -> None:
    async with replaying(Reply([chunk({"content": "a"})], end="hang")) as replay, remote(replay) as engine:
        recorder = Recorder()
        await engine.submit(request(), Context(), recorder)
        await engine.stop()
        await recorder.over()
        assert isinstance(recorder.error, InstanceLost)
        await eventually(lambda: replay.left == 1)
        with pytest.raises(NotReady):
            await answer(engine)
        await engine.start()
        assert engine.ready


async def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    said = json.dumps({"error": {"message": f"bad {KEY} for http://10.0.0.1/x", "type": "invalid_request_error"}})
    refusals = [Reply([said.encode()], status, type="application/json") for status in (400, 401, 429, 500)]
    async with replaying(*refusals) as replay, remote(replay, api_key_env="A_KEY") as engine:
        for _ in refusals:
            with pytest.raises(PenstockError) as caught:
                await answer(engine)
            error = caught.value
            assert not any(word in str(vars(error)) + repr(error) for word in (KEY, "10.0.0.1"))
            assert error.status != 401
        assert [question.headers["authorization"] for question in replay.posts] == [f"Bearer {KEY}"] * 4
        assert KEY not in repr(vars(engine)) + repr(engine)


async def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first")
    async with replaying(GOOD) as replay, remote(replay, api_key_file=str(file)) as engine:
        await answer(engine)
        file.write_text("second")
        os.utime(file, ns=(1, 1))
        await answer(engine)
        file.unlink()
        with pytest.raises(ProviderRefused):
            await answer(engine)
    assert [question.headers["authorization"] for question in replay.posts] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("value", [None, "", "a\nb", "ключ"])
async def test_an_engine_without_a_usable_key_does_not_start(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    async with replaying(GOOD) as replay:
        with pytest.raises(ProviderRefused):
            async with remote(replay, api_key_env="A_KEY"):
                pass
        assert not replay.questions


@pytest.mark.parametrize("status", [401, 403])
async def test_an_engine_whose_key_is_refused_does_not_start(status: int) -> None:
    async with replaying(GOOD) as replay:
        replay.models = Reply([b"{}"], status, type="application/json")
        with pytest.raises(ProviderRefused):
            async with remote(replay):
                pass


@pytest.mark.parametrize("status", [404, 405, 500, 503])
async def test_an_engine_starts_without_the_route_of_models(status: int) -> None:
    async with replaying(GOOD) as replay:
        replay.models = Reply([], status)
        async with remote(replay) as engine:
            assert await answer(engine)
            if status < 500:
                await engine.check_health()


async def test_the_context_length_is_learnt_from_the_server() -> None:
    async with replaying(GOOD) as replay:
        models = {
            "object": "list",
            "data": [{"id": "other", "max_model_len": 7}, {"id": "theirs", "max_model_len": 512}],
        }
        replay.models = Reply([json.dumps(models).encode()], type="application/json")
        async with remote(replay, model="theirs") as engine:
            assert engine.capabilities.context_length == 512
            assert engine.capabilities.accelerator == "remote"
            assert not engine.capabilities.resume
            await answer(engine)
            assert replay.posts[0].body["model"] == "theirs"
        async with remote(replay, model="theirs", capabilities={"context_length": 64}) as engine:
            assert engine.capabilities.context_length == 64


async def test_azure_has_the_deployment_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    async with replaying(GOOD) as replay:
        async with remote(replay, "azure", deployment="prod", api_version="2024-10-21", api_key_env="A_KEY") as engine:
            assert await answer(engine)
        models, chat = replay.questions
        assert models.path == "/openai/models?api-version=2024-10-21"
        assert chat.path == "/openai/deployments/prod/chat/completions?api-version=2024-10-21"
        assert chat.headers["api-key"] == KEY and "authorization" not in chat.headers


async def test_extra_fields_go_over_ours_and_null_takes_one_out() -> None:
    async with replaying(GOOD) as replay:
        extra = {"service_tier": "flex", "stream_options": None, "seed": 3}
        async with remote(replay, extra_body=extra) as engine:
            await answer(engine, sampling={"seed": 1})
        body = replay.posts[0].body
        assert body["service_tier"] == "flex" and body["seed"] == 3 and "stream_options" not in body


async def test_attachments_are_sent_in_openais_own_parts() -> None:
    messages = said(image(png(), detail="low"), audio(WAV), document(PDF, filename="a.pdf"))
    async with replaying(GOOD) as replay, remote(replay) as engine:
        around = link(Attachments(), engine)
        assert await collect(around.generate(request(messages=messages), Context()))
        assert replay.posts[0].body["messages"] == messages


async def test_embeddings_come_as_numbers_or_packed() -> None:
    for vectors in ([[1.0, 0.5], [0.0, -2.0]], ["AACAPwAAAD8=", "AAAAAAAAAMA="]):
        data = [{"object": "embedding", "index": index, "embedding": vectors[index]} for index in (1, 0)]
        text = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}})
        async with (
            replaying(Reply([text.encode()], type="application/json")) as replay,
            remote(replay, capabilities={"embed": True}) as engine,
        ):
            made = await engine.embed(EmbedRequest(model="model", inputs=["a", "b"]))
            assert [made.floats(index) for index in range(2)] == [(1.0, 0.5), (0.0, -2.0)]
            assert made.prompt_tokens == 5
            with pytest.raises(EngineFailed):
                await engine.embed(EmbedRequest(model="model", inputs=["a"]))


async def test_what_the_model_does_not_do_is_not_asked_for() -> None:
    async with replaying(GOOD) as replay, remote(replay, capabilities={"generate": False}) as engine:
        with pytest.raises(Unsupported):
            await engine.embed(EmbedRequest(model="model", inputs=["a"]))
        with pytest.raises(Unsupported):
            await engine.tokenize(TokenizeRequest(model="model", prompt="a"))
        with pytest.raises(Unsupported):
            await answer(engine)
        assert not replay.posts


async def test_a_large_answer_is_parsed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def parse(data: bytes) -> Any:
        threads.append(threading.current_thread())
        return loads_in_slices(data)

    monkeypatch.setattr(http_client, "loads_in_slices", parse)
    vector = [0.5, -0.25, 1.0, 2.0] * 4096
    for inputs, is_large in ((2, False), (8, True)):
        data = [{"index": index, "embedding": vector if is_large else vector[:4]} for index in range(inputs)]
        text = json.dumps({"data": data, "usage": {"prompt_tokens": 5}}).encode()
        async with (
            replaying(Reply([text], type="application/json")) as replay,
            remote(replay, capabilities={"embed": True}) as engine,
        ):
            made = await engine.embed(EmbedRequest(model="model", inputs=["a"] * inputs))
            assert made.floats(inputs - 1)[:4] == (0.5, -0.25, 1.0, 2.0)
            assert len(threads) == is_large
    assert threads[0] is not threading.current_thread()


async def test_tokens_past_the_limit_of_a_minute_are_not_taken() -> None:
    async with replaying(GOOD) as replay, remote(replay, max_tokens_per_minute=20) as engine:
        for _ in range(2):
            assert await answer(engine), "14 tokens each"
        with pytest.raises(RateLimited) as caught:
            await answer(engine)
        assert caught.value.instance == "remote-0" and len(replay.posts) == 2
        assert caught.value.retry_after_s is not None and 30 < caught.value.retry_after_s <= 60
        assert engine.load().running == 0


async def test_tokens_of_embeddings_count() -> None:
    data = [{"index": 0, "embedding": [1.0]}]
    text = json.dumps({"data": data, "usage": {"prompt_tokens": 5}}).encode()
    options = {"capabilities": {"embed": True}, "max_tokens_per_minute": 5}
    async with replaying(Reply([text], type="application/json")) as replay, remote(replay, **options) as engine:
        await engine.embed(EmbedRequest(model="model", inputs=["a"]))
        with pytest.raises(RateLimited):
            await engine.embed(EmbedRequest(model="model", inputs=["a"]))


async def test_a_call_can_be_cancelled() -> None:
    async with replaying(Reply(end="silent")) as replay, remote(replay, capabilities={"embed": True}) as engine:
        context = Context()
        embedding = asyncio.ensure_future(engine.embed(EmbedRequest(model="model", inputs=["a"]), context))
        await eventually(lambda: len(replay.posts) == 1)
        context.stop()
        with pytest.raises(Cancelled):
            await embedding
        await eventually(lambda: replay.left == 1)


async def test_nothing_is_said_after_a_sink_killed_its_request() -> None:
    many = Reply([b"".join(chunk({"content": "a"}) for _ in range(50))], end="hang")
    async with replaying(many) as replay, remote(replay) as engine:
        context = Context()
        recorder = Recorder(lambda deltas: context.kill() if deltas == 3 else None)
        await engine.submit(request(), context, recorder)
        await recorder.over()
        await eventually(lambda: replay.left == 1)
        assert [type(event) for event in recorder.events] == [Started, TextDelta, TextDelta, TextDelta]
        assert not recorder.broken


POOLS: dict[str, Any] = {"dialect": "vllm", "capabilities": {"score": True, "pooling": True}}


def said_once(data: list[Any]) -> Reply:
    text = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}})
    return Reply([text.encode()], type="application/json")


async def test_scores_are_asked_of_the_servers_own_route() -> None:
    data = [{"index": index, "object": "score", "score": 0.5 * index} for index in (1, 0)]
    async with replaying(said_once(data)) as replay, remote(replay, **POOLS) as engine:
        fields = {"queries": ["q"], "documents": ["a", "b"], "max_tokens_per_doc": 3, "use_activation": False}
        scores = await engine.score(ScoreRequest.model_validate({"model": "model", **fields}))
        assert (scores.floats, scores.prompt_tokens) == ((0.0, 0.5), 5)
        body = replay.posts[0].body
        assert {name: body[name] for name in fields} == fields
        assert "truncate_prompt_tokens" not in body
        with pytest.raises(EngineFailed):
            await engine.score(ScoreRequest(model="model", queries=["q"], documents=["a", "b", "c"]))


@pytest.mark.parametrize("score", [None, "0.5", [0.5], float("inf"), 1e300])
async def test_what_is_no_score_is_the_servers_fault(score: Any) -> None:
    data = [{"index": 0, "score": score}]
    async with replaying(said_once(data)) as replay, remote(replay, **POOLS) as engine:
        with pytest.raises(EngineFailed):
            await engine.score(ScoreRequest(model="model", queries=["q"], documents=["a"]))


async def test_what_is_pooled_is_of_the_whole_or_of_each_token() -> None:
    for data, rows in (([1.0, 0.5], [1]), ([[1.0, 0.5], [0.0, 2.0]], [2])):
        async with replaying(said_once([{"index": 0, "data": data}])) as replay, remote(replay, **POOLS) as engine:
            pooled = await engine.pooling(PoolingRequest(model="model", inputs=["a"]))
            assert (pooled.rows, pooled.columns, pooled.per_token) == (rows, 2, rows == [2])
            with pytest.raises(EngineFailed):
                await engine.pooling(PoolingRequest(model="model", inputs=["a", "b"]))


@pytest.mark.parametrize("data", [None, [], "AACAPw==", ["a"], [[]], [[1.0], [1.0, 2.0]], [1e300], [[1.0], 2.0]])
async def test_what_is_no_table_is_the_servers_fault(data: Any) -> None:
    async with replaying(said_once([{"index": 0, "data": data}])) as replay, remote(replay, **POOLS) as engine:
        with pytest.raises(EngineFailed):
            await engine.pooling(PoolingRequest(model="model", inputs=["a"]))
