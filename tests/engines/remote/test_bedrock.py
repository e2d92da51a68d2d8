"""The engine `bedrock`: its signatures, its streams cut at every byte, and its failures."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.completion import collect
from engines.context import Context
from engines.contract import Engine
from engines.errors import (
    ContextOverflow,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    PenstockError,
    ProviderRefused,
    RateLimited,
    StreamIncomplete,
    Timeout,
    Unavailable,
)
from engines.events import Event, Started
from engines.registry import EngineSpec, make_engine, options_type
from engines.remote.anthropic_stream import AnthropicStreamReader
from engines.remote.bedrock_stream import BedrockStreamParser
from engines.remote.failures import Asked
from engines.remote.options import BedrockOptions
from engines.remote.sse import MalformedStream
from tests.contract.asking import Recorder
from tests.engines.remote.aws import (
    ACCESS_KEY,
    EVENT_STREAM,
    SECRET,
    TOKEN,
    chunk,
    exception,
    frame,
    from_sse,
    header,
    refusal,
    set_account,
    signature_is_right,
)
from tests.engines.remote.replay import Replay, Reply, replaying
from tests.engines.remote.test_anthropic import START, STREAMS, TEXT
from tests.engines.remote.wire import request

REGION = "eu-central-1"
MODEL = "eu.anthropic.claude-v1:0"
WHOLE, EVENTS = from_sse(STREAMS["text"][0]), STREAMS["text"][1]
GOOD = Reply([WHOLE], type=EVENT_STREAM)
HALF = from_sse(START + TEXT)


@asynccontextmanager
async def bedrock(replay: Replay, **options: Any) -> AsyncIterator[Engine]:
    given = {"base_url": replay.url, "region": REGION, "model": MODEL, **options}
    engine = make_engine("remote-0", EngineSpec(kind="bedrock", model="model", options=given))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(5)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The options of an engine that signs nothing, and so needs no botocore."""
    monkeypatch.setenv("A_KEY", "bedrock-api-key-0123")
    return {"api_key_env": "A_KEY"}


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of an account, and nothing else that botocore could find."""
    pytest.importorskip("botocore")
    set_account(monkeypatch, tmp_path)
    return monkeypatch


def read(*pieces: bytes) -> list[Event]:
    parser = BedrockStreamParser()
    reader = AnthropicStreamReader(request(), Asked("remote-0"))
    return [ours for piece in pieces for event in parser.feed(piece) for ours in reader.read(event)]


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_cut_anywhere_gives_the_same_events(what: str) -> None:
    data, events = from_sse(STREAMS[what][0]), STREAMS[what][1]
    for cut in range(len(data)):
        assert read(data[:cut], data[cut:]) == events, f"cut at {cut}"


@pytest.mark.parametrize(
    "wrong",
    [
        chunk({"type": "ping"})[:-1] + b"\0",
        frame(header(":message-type", "event") + header(":event-type", "chunk"), b"{}"),
        frame(header(":message-type", "event") + header(":event-type", "chunk"), b'{"bytes": "?"}'),
        frame(header(":message-type", "event") + header(":event-type", "chunk"), b'{"bytes": "//8="}'),
        frame(header(":message-type", "event") + header(":event-type", "chunk"), b"["),
        frame(b"", b"{}"),
    ],
)
def test_what_is_no_stream_of_bedrock_is_malformed(wrong: bytes) -> None:
    with pytest.raises(MalformedStream):
        read(wrong)


def test_events_that_are_yet_to_be_thought_of_are_passed_over() -> None:
    unknown = frame(header(":message-type", "event") + header(":event-type", "initial-response"), b"")
    assert read(unknown + WHOLE) == EVENTS


async def test_the_answer_is_told_and_the_body_has_no_model(key: dict[str, str]) -> None:
    pieces = [WHOLE[at : at + 7] for at in range(0, len(WHOLE), 7)]
    async with replaying(Reply(pieces, type=EVENT_STREAM)) as replay, bedrock(replay, **key) as engine:
        events = [event async for event in engine.generate(request(), Context())]
        assert events == [Started("remote-0", "model"), *EVENTS]
        await engine.check_health()
        (asked,) = replay.questions
        assert asked.path == f"/model/{MODEL}/invoke-with-response-stream"
        assert asked.body["anthropic_version"] == "bedrock-2023-05-31"
        assert asked.body["max_tokens"] and asked.body["messages"]
        assert not asked.body.keys() & {"model", "stream"}
        assert asked.headers["authorization"] == "Bearer bedrock-api-key-0123"
        assert asked.headers["accept"] == EVENT_STREAM


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("model", [MODEL, "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.x-v1:0"])
async def test_requests_are_signed(token: str | None, model: str, credentials: pytest.MonkeyPatch) -> None:
    if token is not None:
        credentials.setenv("AWS_SESSION_TOKEN", token)
    async with replaying(GOOD) as replay, bedrock(replay, model=model) as engine:
        for text in ("Hi", "水車 \U0001f30a"):
            await collect(engine.generate(request(messages=[{"role": "user", "content": text}]), Context()))
        assert len(replay.posts) == 2 and replay.connections == 1
        for asked in replay.posts:
            assert signature_is_right(asked, REGION)
            assert not signature_is_right(asked, "us-east-1"), "the check sees what is wrong"
            assert asked.headers.get("x-amz-security-token") == token
        assert replay.posts[0].path.count("/") == 3


async def test_credentials_that_end_soon_are_refreshed(credentials: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    made = tmp_path / "made"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {made}\n")

    def make(token: str) -> None:
        soon = (datetime.now(UTC) + timedelta(seconds=300)).isoformat()
        fields = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET, "SessionToken": token}
        made.write_text(json.dumps({**fields, "Expiration": soon}))

    make("first")
    async with replaying(GOOD) as replay, bedrock(replay) as engine:
        await collect(engine.generate(request(), Context()))
        make("second")
        await collect(engine.generate(request(), Context()))
        made.unlink()
        with pytest.raises(Unavailable):
            await collect(engine.generate(request(), Context()))
        tokens = [asked.headers["x-amz-security-token"] for asked in replay.posts]
        assert tokens == ["first", "second"] and all(signature_is_right(asked, REGION) for asked in replay.posts)


async def test_credentials_that_cannot_be_refreshed_are_no_fault_of_the_request(
    credentials: pytest.MonkeyPatch,
) -> None:
    class Gone:
        def get_frozen_credentials(self) -> None:
            raise RuntimeError(f"{SECRET} is over")

    session = pytest.importorskip("botocore.session")
    credentials.setattr(session.Session, "get_credentials", lambda self: Gone())
    async with replaying(GOOD) as replay, bedrock(replay) as engine:
        with pytest.raises(Unavailable) as caught:
            await collect(engine.generate(request(), Context()))
        assert SECRET not in str(vars(caught.value)) and caught.value.instance == "remote-0"
        assert engine.load().running == 0 and not replay.questions


async def test_an_engine_without_credentials_does_not_start(credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    async with replaying(GOOD) as replay:
        with pytest.raises(ProviderRefused) as caught:
            async with bedrock(replay):
                pass
        assert caught.value.reason == "unauthorized" and not replay.questions


async def test_credentials_are_in_no_log(credentials: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    credentials.setenv("AWS_SESSION_TOKEN", TOKEN)
    credentials.setattr(logging.getLogger("botocore"), "level", logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    async with replaying(GOOD) as replay, bedrock(replay) as engine:
        await collect(engine.generate(request(), Context()))
        shown = caplog.text + repr(engine) + repr(vars(engine))
        assert not any(word in shown for word in (SECRET, TOKEN))


async def test_a_machine_without_botocore_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    async with replaying(GOOD) as replay:
        with pytest.raises(EngineFailed, match=r"penstock\[bedrock\]"):
            async with bedrock(replay):
                pass
    assert "penstock[bedrock]" in options_type("bedrock").packages["botocore"]


FAILURES: list[tuple[int, str, str, type[PenstockError]]] = [
    (429, "ThrottlingException", "Too many requests, please wait.", RateLimited),
    (403, "AccessDeniedException", "You don't have access to the model.", ProviderRefused),
    (403, "UnrecognizedClientException", "The security token is invalid.", ProviderRefused),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model.", ProviderRefused),
    (429, "ModelNotReadyException", "Model is not ready for inference.", Unavailable),
    (503, "ServiceUnavailableException", "Try again.", Unavailable),
    (408, "ModelTimeoutException", "Too long.", Timeout),
    (424, "ModelErrorException", "It failed.", InstanceLost),
    (424, "ModelStreamErrorException", "It failed.", InstanceLost),
    (500, "InternalServerException", "It failed.", InstanceLost),
    (400, "ServiceQuotaExceededException", "Quota.", RateLimited),
    (400, "ValidationException", "messages: at least one message is required", InvalidRequest),
    (400, "ValidationException", "Input is too long for requested model.", ContextOverflow),
    (400, "ValidationException", "prompt is too long: 9000 tokens > 8192 maximum", ContextOverflow),
    (400, "ValidationException", "The provided model identifier is invalid.", ProviderRefused),
    (
        400,
        "ValidationException",
        "Invocation of model ID a.b with on-demand throughput isn't supported. Retry with an inference profile.",
        ProviderRefused,
    ),
    (418, "SomethingNewException", "Hm.", InvalidRequest),
]


@pytest.mark.parametrize(("status", "type", "message", "expected"), FAILURES)
async def test_a_refusal_is_an_error_of_the_tree(
    status: int, type: str, message: str, expected: type[PenstockError], key: dict[str, str]
) -> None:
    said = refusal(status, type, message, **{"Retry-After": "7"})
    in_the_body = Reply([json.dumps({"__type": f"com.amazon#{type}", "Message": message}).encode()], status)
    async with replaying(said, in_the_body, GOOD) as replay, bedrock(replay, **key) as engine:
        for retry_after_s in (7.0, None):
            with pytest.raises(expected) as caught:
                await collect(engine.generate(request(), Context()))
            assert caught.value.__class__ is expected
            assert (caught.value.instance, caught.value.retry_after_s) == ("remote-0", retry_after_s)
            if expected is ContextOverflow:
                assert caught.value.param == "messages"
        assert (await collect(engine.generate(request(), Context()))).text


@pytest.mark.parametrize(("status", "type", "message", "expected"), FAILURES[:-1])
@pytest.mark.parametrize("begun", [False, True])
async def test_an_exception_in_the_stream_ends_it(
    status: int, type: str, message: str, expected: type[PenstockError], begun: bool, key: dict[str, str]
) -> None:
    data = (HALF if begun else b"") + exception(type[0].lower() + type[1:], message, originalStatusCode=status)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        recorder = Recorder()
        async with replaying(Reply(pieces, type=EVENT_STREAM)) as replay, bedrock(replay, **key) as engine:
            if begun:
                await engine.submit(request(), Context(), recorder)
                await recorder.over()
                assert recorder.error.__class__ is expected and recorder.text == "Zoë 水車"
            else:
                with pytest.raises(expected):
                    await engine.submit(request(), Context(), recorder)
                assert not recorder.events


async def test_an_error_without_a_shape_ends_the_stream(key: dict[str, str]) -> None:
    headers = header(":message-type", "error") + header(":error-code", "Odd") + header(":error-message", "boom")
    reply = Reply([HALF + frame(headers, b"")], type=EVENT_STREAM)
    async with replaying(reply) as replay, bedrock(replay, **key) as engine:
        with pytest.raises(InstanceLost, match="boom"):
            await collect(engine.generate(request(), Context()))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply([HALF], type=EVENT_STREAM), StreamIncomplete),
        (Reply([WHOLE[:-250]], type=EVENT_STREAM), StreamIncomplete),
        (Reply([HALF], type=EVENT_STREAM, end="reset"), InstanceLost),
        (Reply([HALF], type=EVENT_STREAM, end="hang"), Timeout),
        (Reply([HALF, WHOLE[:-1][-50:]], type=EVENT_STREAM), InstanceLost),
        (Reply([b'{"message": "no stream"}'], type="application/json"), InstanceLost),
        (Reply([STREAMS["text"][0]]), InstanceLost),
    ],
)
async def test_what_breaks_off_or_is_no_event_stream_is_an_error(
    reply: Reply, expected: type[PenstockError], key: dict[str, str]
) -> None:
    async with replaying(reply) as replay, bedrock(replay, **key, idle_s=0.2) as engine:
        async with asyncio.timeout(60):
            with pytest.raises(expected):
                await collect(engine.generate(request(), Context()))


def test_the_address_is_that_of_the_region() -> None:
    options = options_type("bedrock").model_validate({"region": "us-gov-west-1"})
    assert isinstance(options, BedrockOptions)
    assert options.base_url == "https://bedrock-runtime.us-gov-west-1.amazonaws.com"
    for wrong in ({}, {"region": "Frankfurt"}, {"region": "eu-central-1.example.com/"}):
        with pytest.raises(ValidationError, match="region"):
            options_type("bedrock").model_validate(wrong)
