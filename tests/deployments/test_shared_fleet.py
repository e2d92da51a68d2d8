"""What a fleet answers over Serve handles and HTTP, with everything real but the models."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from functools import partial
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from actors.directory.known_instance import InstanceState
from actors.instance.sleeper import WAKE_S
from deployments.handle import FleetHandle
from engines.call_requests import DetokenizeRequest, EmbedRequest, TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Load
from engines.conversation.events import TurnFinished
from engines.conversation.frames import Frame, Open
from engines.errors import (
    AttachmentRefused,
    Cancelled,
    InstanceNotFound,
    InvalidRequest,
    ModelNotFound,
    Overload,
    Overloaded,
    PenstockError,
)
from engines.events import Finished, Started, TextDelta
from engines.pooling_requests import ScoreRequest
from engines.rendezvous import draw
from engines.requests import GenerateRequest, Session
from tests.deployments.waiting import until
from tests.engines.attachments.pictures import image, png, said
from tests.engines.conversation.talking import respond, texts, user

ECHO = {"model": "echo", "prompt": "one two three"}
SLOW = {"model": "org/slow", "prompt": "x"}


@pytest.fixture
def fleet(shared_fleet: Any) -> FleetHandle:
    return FleetHandle(shared_fleet)


async def until_refused_no_more(fleet: FleetHandle, context: Context) -> str:
    """Asks until a slot is free, and returns the first text."""
    async with asyncio.timeout(60):
        while True:
            try:
                # A stream that ends, refused or not, kills the context it was given.
                async with aclosing(fleet.generate(SLOW, context.child())) as events:  # type: ignore[type-var]
                    async for event in events:
                        if isinstance(event, TextDelta):
                            return event.text
            except Overload:
                await asyncio.sleep(0.05)


async def test_generate_gives_typed_events(shared_fleet: Any) -> None:
    events = [event async for event in shared_fleet.options(stream=True).generate.remote(ECHO)]
    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events[1:-1]) == "one two three"
    assert isinstance(events[-1], Finished)


async def test_the_fleet_is_an_engine(fleet: FleetHandle) -> None:
    await fleet.start()
    assert fleet.ready
    completion = await collect(fleet.generate(GenerateRequest(**ECHO), Context()))
    assert completion.text == "one two three"
    assert completion.engine.startswith("echo-")


async def test_complete_embed_tokenize_detokenize(fleet: FleetHandle) -> None:
    assert (await fleet.complete({**ECHO, "model": "parrot"})).text == "one two three"
    assert len(await fleet.embed(EmbedRequest(model="echo", inputs=["a", "b"]))) == 2
    assert len(await fleet.embed({"model": "echo", "inputs": ["a"]})) == 1
    assert len(await fleet.score(ScoreRequest(model="echo", queries=["a"], documents=["a", "b"]))) == 2
    assert len(await fleet.score({"model": "echo", "queries": ["a"], "documents": ["b"]})) == 1
    assert (await fleet.pooling({"model": "echo", "inputs": ["a", "b"]})).rows == [1, 1]
    tokens = await fleet.tokenize(TokenizeRequest(model="echo", prompt="hi"))
    assert await fleet.detokenize(DetokenizeRequest(model="echo", token_ids=tokens.token_ids)) == "hi"


async def test_a_wrong_dict_names_the_field(fleet: FleetHandle, shared_fleet: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await fleet.complete({**ECHO, "sampling": {"temperature": "hot"}})
    assert caught.value.param == "sampling.temperature"
    # A bare handle raises Ray's error, which is ours as well, with our fields.
    with pytest.raises(InvalidRequest) as bare:
        await shared_fleet.complete.remote({**ECHO, "sampling": {"temperature": "hot"}})
    assert (bare.value.param, bare.value.status) == ("sampling.temperature", 400)


async def test_errors_arrive_as_they_were_raised(fleet: FleetHandle) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await fleet.complete({"model": "nope", "prompt": "x"})
    assert caught.value.served == ("echo", "parrot", "org/slow", "dozy", "mimic")
    with pytest.raises(InstanceNotFound) as missing:
        await anext(aiter(fleet.generate({**ECHO, "instance": "echo-none"})))
    assert missing.value.param == "instance"


async def test_who_serves_what(fleet: FleetHandle) -> None:
    assert [(card.name, card.aliases, card.parent, card.ready) for card in await fleet.models()] == [
        ("echo", ("parrot",), None, 3),
        ("org/slow", (), None, 1),
        ("dozy", (), None, 1),
        ("mimic", (), "echo", 3),
    ]
    instances = await fleet.instances()
    assert Counter(instance.model for instance in instances) == {"echo": 3, "org/slow": 1, "dozy": 1}
    assert all(instance.pid and instance.node for instance in instances)
    for instance in instances:
        if instance.model == "echo":
            assert (await fleet.complete({**ECHO, "instance": instance.id})).engine == instance.id


async def test_an_adapter_answers_under_its_name(fleet: FleetHandle) -> None:
    completion = await fleet.complete({**ECHO, "model": "mimic"})
    assert completion.model == "mimic"
    assert completion.engine in {instance.id for instance in await fleet.instances() if instance.model == "echo"}


async def test_a_burst_spreads_over_the_instances(fleet: FleetHandle) -> None:
    completions = await asyncio.gather(*(fleet.complete(ECHO) for _ in range(60)))
    counts = Counter(completion.engine for completion in completions)
    assert len(counts) == 3
    assert min(counts.values()) >= 10


async def test_overload_is_refused_and_dropping_a_stream_frees_its_slot(fleet: FleetHandle) -> None:
    streams = [fleet.generate(SLOW) for _ in range(2)]
    for stream in streams:
        assert isinstance(await anext(stream), Started)
    with pytest.raises(Overloaded) as caught:
        await fleet.complete(SLOW)
    assert caught.value.status == 429
    assert caught.value.retry_after_s
    await streams[0].aclose()
    assert await until_refused_no_more(fleet, Context()) == "so far"
    await streams[1].aclose()


async def test_cancelling_a_call_frees_its_slot(fleet: FleetHandle) -> None:
    calls = [asyncio.ensure_future(fleet.complete(SLOW)) for _ in range(2)]
    await until_overloaded(fleet)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await until_refused_no_more(fleet, Context()) == "so far"


async def test_cancelling_a_bare_handle_stream_frees_its_slot(fleet: FleetHandle, shared_fleet: Any) -> None:
    responses = [shared_fleet.options(stream=True).generate.remote(SLOW) for _ in range(2)]
    for response in responses:
        assert isinstance(await anext(response), Started)
    await until_overloaded(fleet)
    for response in responses:
        response.cancel()
    assert await until_refused_no_more(fleet, Context()) == "so far"


async def until_overloaded(fleet: FleetHandle) -> None:
    """Returns when every slot is taken. It looks, and asks nothing: a question might take one of the slots."""

    async def is_full() -> bool:
        return [instance.load.running for instance in await fleet.instances() if instance.model == SLOW["model"]] == [2]

    await until(is_full)


async def test_stop_ends_a_stream_politely_and_kill_at_once(fleet: FleetHandle) -> None:
    context = Context()
    stream = fleet.generate(SLOW, context)
    assert isinstance(await anext(stream), Started)
    assert isinstance(await anext(stream), TextDelta)
    context.stop()
    finished = await anext(stream)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.completion_tokens) == ("cancelled", len("so far"))

    context = Context()
    stream = fleet.generate(SLOW, context)
    async with asyncio.timeout(60):
        started = await anext(stream)
    assert isinstance(started, Started)
    context.kill()
    with pytest.raises(Cancelled):
        async for _ in stream:
            pass


async def ports(fleet_handle: Any) -> list[int]:
    """The ports of both router replicas."""
    async with asyncio.timeout(60):
        found: set[int] = set()
        while len(found) < 2:
            found.add(await fleet_handle.http_port.remote())
        return sorted(found)


async def test_each_router_replica_takes_up_the_realtime_sessions_and_knows_the_secrets_of_the_other(
    shared_fleet: Any,
) -> None:
    one, other = await ports(shared_fleet)
    clients = [AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") for port in (one, other)]
    secret = await clients[0].realtime.client_secrets.create(session={"type": "realtime", "model": "echo"})
    user: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    async with clients[0].realtime.connect(model="echo") as connection:
        created = await connection.recv()
        await connection.conversation.item.create(item=user)
        await connection.conversation.item.create(item={**user, "id": "last"})
        # Both: what the server has not read when the socket closes is in no session.
        done: list[Any] = []
        while len(done) < 2:
            event = await connection.recv()
            if event.type == "conversation.item.done":
                done.append(event)
    assert created.type == "session.created"
    id = created.session.id

    file = (await shared_fleet.settings.remote()).database.file

    async def written() -> bool:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM realtime_items WHERE session = ?", [id]).fetchone()
        return int(count) == 2

    # In the background, and by the first replica alone for as long as it holds the session: the next one ends that.
    await until(written)
    async with clients[1].realtime.connect(model="echo", extra_query={"session_id": id}) as connection:
        session: Any = (await connection.recv()).session  # type: ignore[union-attr]
        assert (session.id, session.last_item_id) == (id, "last")
    browser = AsyncOpenAI(base_url=str(clients[1].base_url), api_key=secret.value)
    async with browser.realtime.connect(model="echo") as connection:
        assert (await connection.recv()).type == "session.created"
    for client in (*clients, browser):
        await client.close()


async def test_sessions_stay_on_one_instance_from_both_router_replicas(fleet: FleetHandle, shared_fleet: Any) -> None:
    assert len(await ports(shared_fleet)) == 2
    homes = set()
    for index in range(6):
        # A soft one goes elsewhere while its instance is slow to say that it lives, which one replica may see alone.
        request = GenerateRequest(**ECHO, session=Session(id=f"session {index}", mode="hard"))
        # Serve spreads concurrent calls over both replicas.
        engines = {done.engine for done in await asyncio.gather(*(fleet.complete(request) for _ in range(3)))}
        assert len(engines) == 1
        homes |= engines
    assert len(homes) > 1


async def test_a_session_that_one_router_replica_bound_stays_through_the_other(
    fleet: FleetHandle, shared_fleet: Any
) -> None:
    ids = [instance.id for instance in await fleet.instances() if instance.model == ECHO["model"]]
    first, second = await ports(shared_fleet)
    async with aiohttp.ClientSession() as http:

        async def asked(port: int, **fields: str) -> str:
            async with http.post(f"http://127.0.0.1:{port}/v1/completions", json={**ECHO, **fields}) as answer:
                assert answer.status == 200, await answer.text()
                return answer.headers["x-penstock-instance"]

        for session in ("bound here", "and here"):
            loser = min(ids, key=partial(draw, session))
            await asked(first, session_id=session, instance=loser)
            # Its answer comes after what its instance has to say of the session.
            await asked(second, instance=loser)
            assert await asked(second, session_id=session) == loser


async def test_http_reaches_the_same_fleet(shared_fleet: Any) -> None:
    async with aiohttp.ClientSession() as http:
        for port in await ports(shared_fleet):
            url = f"http://127.0.0.1:{port}"
            async with http.get(f"{url}/ready") as answer:
                assert answer.status == 200
            async with http.get(f"{url}/-/routes") as answer:
                assert await answer.json() == {"/": "shared"}
            async with http.get(f"{url}/v1/models") as answer:
                assert {model["id"] for model in (await answer.json())["data"]} >= {"echo", "org/slow"}
            body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
                assert (await answer.json())["choices"][0]["message"]["content"] == "one two three"
            async with http.get(f"{url}/metrics") as answer:
                assert "penstock_requests_total" in await answer.text()


async def test_an_instance_that_sleeps_is_ready_says_so_and_wakes_for_its_next_request(
    fleet: FleetHandle, shared_fleet: Any
) -> None:
    async def load() -> Load:
        (instance,) = [one for one in await fleet.instances() if one.model == "dozy"]
        assert instance.state is InstanceState.READY
        return instance.load

    async def sleeps() -> bool:
        return (await load()).is_asleep

    for _ in range(2):
        await until(sleeps)
        assert (await fleet.complete({"model": "dozy", "prompt": "count from 1 to 3"})).text == "1 2 3"
    await until(sleeps)
    assert 0.4 < (await load()).wake_s != WAKE_S[1]  # As measured, and not as guessed.
    (port, *_) = await ports(shared_fleet)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert "penstock_instance_sleeping" in await answer.text()


async def test_a_killed_handle_call_is_not_started(fleet: FleetHandle) -> None:
    context = Context()
    context.kill()
    with pytest.raises(PenstockError):
        await fleet.complete(ECHO, context)


@pytest.mark.parametrize("padding", [0, 2**20], ids=["small", "large"])
async def test_attachments_reach_an_instance_and_what_is_no_image_does_not(fleet: FleetHandle, padding: int) -> None:
    picture = png(padding=padding)
    completion = await fleet.complete({"model": "echo", "messages": said(image(picture), text="see")})
    assert completion.text == f"see image/png:{sha256(picture).hexdigest()}"
    with pytest.raises(AttachmentRefused) as refused:
        await fleet.complete({"model": "echo", "messages": said(image(picture[1:]))})
    assert refused.value.param == "messages[0].content[1].image_url.url"


async def test_a_conversation_over_the_handle(fleet: FleetHandle) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()

    async def frames() -> AsyncIterator[Frame]:
        yield Open(model="echo")
        for turn in ("t", "u"):
            yield user(turn, f"hello {turn}")
            yield respond(turn)
            while not isinstance(await answers.get(), TurnFinished):
                pass

    events = []
    async for event in fleet.converse(frames(), Context()):
        events.append(event)
        answers.put_nowait(event)
    assert texts(events) == {"t": "hello t", "u": "hello u"}
    assert isinstance(events[-1], Finished)
