"""A response in the background outlives the router replica that makes it: another one goes on."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database import background_lease, group_commit
from deployments.database.database import DatabaseUnavailable
from deployments.database.tables import BACKGROUND_RESPONSES
from deployments.fleet_settings import DatabaseSettings
from deployments.http.responses.background import run
from deployments.http.responses.background.runs import BackgroundRuns
from deployments.tenants.key_file import hash_of
from engines.errors import InstanceLost
from engines.events import Finished, ReasoningDelta, TextDelta, ToolCallFinished, ToolCallStarted, Usage
from engines.events import ToolCallArgumentsDelta as Arguments
from engines.scripted.engine import DEFAULT_CAPABILITIES, ScriptedEngine
from engines.scripted.script import Hang, Hold
from tests.deployments.http.conftest import Served, Serving, until
from tests.deployments.http.responses.background.asking import Reader, begun, ended, look, reading, said, stands
from tests.deployments.http.responses.talking import ADD, ASKED, PATH, SHELL, events_of
from tests.deployments.tenants.key_files import key_file
from tests.deployments.waiting import until as async_until

AGENT: list[Any] = [
    ReasoningDelta("Let me ", token_ids=(1,)),
    ReasoningDelta("think.", token_ids=(2,)),
    TextDelta("On ", token_ids=(3,)),
    TextDelta("it.", token_ids=(4,)),
    ToolCallStarted(0, "call_1", "add", token_ids=(5,)),
    Arguments(0, '{"a":', token_ids=(6,)),
    Arguments(0, " 1}", token_ids=(7,)),
    ToolCallFinished(0, token_ids=(8,)),
    ToolCallStarted(1, "call_2", "shell", token_ids=(9,)),
    Arguments(1, '{"input": "ls\\n', token_ids=(10,)),
    Arguments(1, '-l"}', token_ids=(11,)),
    ToolCallFinished(1, token_ids=(12,)),
    Finished(("tool_calls",), Usage(11, 12, 4, 2), "demo-0"),
]
ASKS: dict[str, Any] = {"tools": [ADD, SHELL], "include": ["reasoning.encrypted_content"]}


@pytest.fixture
def database(tmp_path: Path) -> DatabaseSettings:
    return DatabaseSettings(file=str(tmp_path / "penstock.sqlite"))


def runs_of(served: Served) -> BackgroundRuns:
    services = served.ingress._services
    assert services is not None
    return services.worker(BackgroundRuns)


async def die(served: Served) -> None:
    """What it makes ends where it is, and nothing is given back, as when its process is killed."""
    runs = runs_of(served)
    runs._drains.set()
    assert runs._follower is not None
    await asyncio.wait([runs._follower])
    for lease, task in list(runs._running.items()):
        lease.is_over = True
        task.cancel()
    await until(lambda: not runs._running)
    await runs._background.stop()
    await end_leases(served)


async def end_leases(served: Served) -> None:
    """Nobody has to wait for that."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(update(BACKGROUND_RESPONSES).values(lease_until=0.0))

    await runs_of(served)._background._database.run(work)


class Gate:
    """A script that goes on once it is opened."""

    def __init__(self, before: str, after: list[Any]) -> None:
        self.is_open = False
        self._before = before
        self._after = after

    def __call__(self, _: Any) -> Iterator[Any]:
        yield self._before
        while not self.is_open:
            yield 0.02
        yield from self._after


def merged(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events with the pieces of one text in one, without their numbers, and what differs from response to response."""
    made: list[dict[str, Any]] = []
    for event in events:
        one = {key: value for key, value in event.items() if key != "sequence_number"}
        last = made[-1] if made else None
        if last is not None and "delta" in one and (last["type"], last.get("item_id")) == (one["type"], one["item_id"]):
            last["delta"] += one["delta"]
        else:
            made.append(one)
    return made


def without_ids(events: list[dict[str, Any]]) -> str:
    """Events as text without what differs from one response to the next."""
    text = str(merged(events))
    for event in events:
        response = event.get("response") or {}
        for name in ("id", "created_at", "completed_at"):
            text = text.replace(str(response.get(name, "?")).removeprefix("resp_"), "same")
        for item in response.get("output", ()):
            text = text.replace(str(item.get("encrypted_content")), "sealed")
    return text


@pytest.mark.parametrize("dies_after", range(len(AGENT) + 1))
async def test_after_any_event_it_goes_on_as_if_nothing_had_been(
    serving: Serving, database: DatabaseSettings, dies_after: int
) -> None:
    script = [*AGENT[:dies_after], Hang()] if dies_after < len(AGENT) else AGENT
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(serving(script, database=database))
        id = await begun(ours, **ASKS)
        stream = await stack.enter_async_context(reading(ours, id))
        before = await stream.until("response.in_progress")
        # Begun, and said so much; what of that was stored by then is another matter.
        await until(lambda: len(ours.engine.plays[0].emitted) > dies_after)
        await die(ours)
        theirs = await stack.enter_async_context(serving(AGENT, database=database))
        async with reading(theirs, id, before[-1]["sequence_number"]) as rest:
            after = await rest.rest()
        events = before + after
        # Who still reads where it was made reads on.
        assert before + await stream.rest() == events
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events_of((await theirs.get(f"{PATH}/{id}?stream=true")).body) == events
        assert await ended(theirs, id) == events[-1]["response"]
        # All that was said is there once, and so it is where nobody has died.
        undisturbed = await begun(theirs, **ASKS)
        await ended(theirs, undisturbed)
        whole = events_of((await theirs.get(f"{PATH}/{undisturbed}?stream=true")).body)
        assert without_ids(events) == without_ids(whole)
        if dies_after < len(AGENT):
            assert 'outcome="taken_over"} 1.0' in await metrics(theirs)


async def metrics(served: Served) -> str:
    return (await served.get("/metrics")).body.decode()


async def test_a_replica_that_drains_hands_it_over_at_once(
    serving: Serving, settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_lease, "LEASE_S", 600.0)
    one, other = serving(["so far", Hang()], database=settings), serving(["so far", " and on"], database=settings)
    async with one as ours, other as theirs:
        id = await begun(ours)
        async with reading(ours, id) as stream:
            before = await stream.until("response.output_text.delta")
            ours.ingress.drain()
            after = await stream.rest()
        response = await ended(theirs, id)
        assert said_in(response) == "so far and on" == said(before + after)
        assert 'outcome="handed_over"} 1.0' in await metrics(ours)
        assert "taken_over" not in await metrics(theirs)
        assert not ours.engine.active
        # What comes now is made by the other one, too.
        await ended(theirs, await begun(ours))
        assert len(ours.engine.plays) == 1


async def test_it_is_read_at_any_replica_and_cancelled_at_any(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["so far", Hang()], database=settings) as ours, serving(["no"], database=settings) as theirs:
        ids = [await begun(ours), await begun(ours)]
        for id in ids:
            await stands(theirs, id, "in_progress")
        async with reading(theirs, ids[0]) as stream:
            before = await stream.until("response.output_text.delta")
            answer = await theirs.post(f"{PATH}/{ids[0]}/cancel")
            assert (answer.status, answer.json["status"]) == (200, "cancelled")
            after = await stream.rest()
        assert after[-1]["response"] == answer.json == await look(ours, ids[0])
        assert [event["sequence_number"] for event in before + after] == list(range(len(before + after)))
        assert (await theirs.request("DELETE", f"{PATH}/{ids[1]}")).status == 200
        # Whoever makes it notices as it writes.
        await until(lambda: not ours.engine.active)
        await until(lambda: not runs_of(ours)._running)
        assert not theirs.engine.plays


async def test_many_cancel_it_at_once(serving: Serving, settings: DatabaseSettings) -> None:
    async with serving(["so far", Hang()], database=settings) as ours, serving(["no"], database=settings) as theirs:
        id = await begun(ours)
        await stands(ours, id, "in_progress")
        answers = await asyncio.gather(*(one.post(f"{PATH}/{id}/cancel") for one in [ours, theirs] * 5))
        assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "cancelled")}
        assert len({answer.body for answer in answers}) == 1


def away(*_: Any) -> Any:
    raise DatabaseUnavailable("The database of this server does not answer.")


async def test_what_cannot_be_stored_is_not_told_and_goes_on_when_it_can(
    serving: Serving, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "RETRY_S", 0.05)
    script = Gate("so ", ["far ", 0.1, "and ", 0.1, "on"])
    async with serving(script, database=database) as served:
        id = await begun(served)
        async with reading(served, id) as stream:
            before = await stream.until("response.output_text.delta")
            with monkeypatch.context() as patched:
                patched.setattr(runs_of(served)._background._database, "run", away)
                script.is_open = True
                await until(lambda: not served.engine.active)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await stream.event()
        async with reading(served, id, before[-1]["sequence_number"]) as again:
            after = await again.rest()
        assert said(before) == "so " and said(before + after) == "so far and on"
        assert len(served.engine.plays) == 1


async def test_who_cannot_hold_its_lease_says_nothing_more(
    serving: Serving, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if cut off from the database: another one goes on, and what this one still says is nobody's."""
    monkeypatch.setattr(background_lease, "LEASE_S", 2.0)
    script = Gate("so far", [" lost", 0.2] * 100)
    async with serving(script, database=database) as ours:
        id = await begun(ours)
        await stands(ours, id, "in_progress")
        with monkeypatch.context() as patched:
            patched.setattr(runs_of(ours)._background._database, "run", away)
            script.is_open = True
            async with serving(["so far", *[" lost"] * 3, " and on"], database=database) as theirs:
                response = await ended(theirs, id)
                await until(lambda: not ours.engine.active)
                await until(lambda: not runs_of(ours)._running)
        text = response["output"][0]["content"][0]["text"]
        assert (response["status"], text) == ("completed", "so far lost lost lost and on")
        assert await look(ours, id) == response
        assert 'outcome="lost"} 1.0' in await metrics(ours)


async def test_an_older_holder_is_stopped_by_its_next_write(serving: Serving, database: DatabaseSettings) -> None:
    """Its process stood still for longer than its lease, and does not know that."""
    script = Gate("so far", [" lost", 0.05] * 1000)
    async with serving(script, database=database) as ours:
        id = await begun(ours)
        await stands(ours, id, "in_progress")
        assert await runs_of(ours)._background.take_to_cancel(id, "anybody") is not None
        script.is_open = True
        await until(lambda: not ours.engine.active)
        assert (await look(ours, id))["status"] == "in_progress"
        # Whoever was to end it is gone, too.
        await end_leases(ours)
        response = await ended(ours, id)
        assert (response["status"], said_in(response)) == ("cancelled", "so far")


def said_in(response: dict[str, Any]) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


async def test_one_that_takes_replica_after_replica_with_it_is_given_up(
    serving: Serving, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MOST_LOSSES", 2)
    async with serving([Hold(hold_s=600)], database=database) as first:
        id = await begun(first)
        await until(lambda: bool(first.engine.plays))
        await die(first)
        async with serving([Hold(hold_s=600)], database=database) as second:
            await until(lambda: bool(second.engine.plays))
            await die(second)
            async with serving([Hold(hold_s=600)], database=database) as third:
                await until(lambda: bool(third.engine.plays))
                await die(third)
                async with serving(["never"], database=database) as last:
                    response = await ended(last, id)
                    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
                    assert "one after another" in response["error"]["message"]
                    assert not last.engine.plays


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_model_that_cannot_go_on_from_ids_says_the_same_again_or_it_has_failed(
    serving: Serving, database: DatabaseSettings, temperature: float
) -> None:
    def engine(*script: Any) -> ScriptedEngine:
        return ScriptedEngine("demo-0", script=script, capabilities=replace(DEFAULT_CAPABILITIES, resume=False))

    async with serving(engines=[engine("so far", Hang())], database=database) as ours:
        id = await begun(ours, temperature=temperature)
        await stands(ours, id, "in_progress")
        await die(ours)
        async with serving(engines=[engine("so far", " and on")], database=database) as theirs:
            response = await ended(theirs, id)
            if temperature:
                assert (response["status"], said_in(response)) == ("failed", "so far")
            else:
                assert (response["status"], said_in(response)) == ("completed", "so far and on")
            events = events_of((await theirs.get(f"{PATH}/{id}?stream=true")).body)
            assert said(events) == said_in(response)


async def test_one_that_broke_off_goes_on_later(serving: Serving, database: DatabaseSettings) -> None:
    scripts = [["so far", InstanceLost("It died.")], ["so far", " and on"]]
    async with serving(lambda _: scripts.pop(0), database=database) as served:
        response = await ended(served, await begun(served))
        assert (response["status"], said_in(response)) == ("completed", "so far and on")
        assert response["usage"]["output_tokens"] == len("so far and on")


async def test_a_key_that_is_taken_away_ends_it(serving: Serving, database: DatabaseSettings, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(ours={}, theirs={}))
    ours, theirs = ({"Authorization": f"Bearer {name}-key"} for name in ("ours", "theirs"))
    async with serving(["so far", Hang()], database=database, keys={"file": str(file)}) as served:
        answer = await served.post(PATH, {**ASKED, "background": True}, headers=ours)
        path = f"{PATH}/{answer.json['id']}"
        await until(lambda: bool(served.engine.active))
        for method, rest in (("GET", ""), ("GET", "?stream=true"), ("GET", "/input_items"), ("POST", "/cancel")):
            assert (await served.request(method, path + rest, headers=theirs)).status == 404
        assert (await served.request("DELETE", path, headers=theirs)).status == 404
        assert served.engine.active
        # Another key of the same tenant reads what has become of it.
        keys = [{"sha256": hash_of(b"new-key")}]
        file.write_text(key_file(ours={"keys": keys}, theirs={}))
        new = {"Authorization": "Bearer new-key"}

        async def has_failed() -> bool:
            return bool((await served.get(path, headers=new)).json.get("status") == "failed")

        await async_until(has_failed, 60)
        answer = await served.get(path, headers=new)
        assert "key" in answer.json["error"]["message"]
        assert not served.engine.active


async def test_it_counts_against_its_tenants_limits(
    serving: Serving, database: DatabaseSettings, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(ours={"max_requests": 1}))
    ours = {"Authorization": "Bearer ours-key"}
    async with serving(["so far", Hang()], database=database, keys={"file": str(file)}) as served:
        ids = [(await served.post(PATH, {**ASKED, "background": True}, headers=ours)).json["id"] for _ in range(2)]
        await until(lambda: bool(served.engine.active))
        await until(lambda: len(runs_of(served)._running) == 1)
        assert len(served.engine.active) == 1
        for id in ids:
            await until(lambda: bool(served.engine.active))
            states = [(await served.get(f"{PATH}/{one}", headers=ours)).json["status"] for one in ids]
            running = ids[states.index("in_progress")] if "in_progress" in states else id
            await served.post(f"{PATH}/{running}/cancel", headers=ours)


async def test_a_tenant_takes_no_place_of_a_replica_that_others_need(
    serving: Serving, database: DatabaseSettings, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(ours={}, theirs={}))
    ours, theirs = ({"Authorization": f"Bearer {name}-key"} for name in ("ours", "theirs"))
    bounds = {"background": {"max_per_replica": 8}}
    async with serving(["so far", Hang()], database=database, keys={"file": str(file)}, responses=bounds) as served:
        for _ in range(6):
            assert (await served.post(PATH, {**ASKED, "background": True}, headers=ours)).status == 200
        await until(lambda: len(served.engine.active) == 2)
        answer = await served.post(PATH, {**ASKED, "background": True}, headers=theirs)
        async with served.client.get(f"{served.url}{PATH}/{answer.json['id']}?stream=true", headers=theirs) as response:
            await Reader(aiter(response.content)).until("response.in_progress")
        assert len(served.engine.active) == 3


async def test_events_that_are_read_take_of_the_budget_for_bodies(serving: Serving, database: DatabaseSettings) -> None:
    goes_on: list[bool] = []

    def script(_: Any) -> Iterator[Any]:
        yield "x" * 1000
        while not goes_on:
            yield 0.02
        yield "y" * 9000
        yield Hang()

    async with serving(script, database=database, max_bodies_bytes=12_000) as served:
        id = await begun(served)
        bodies = runs_of(served)._services.bodies
        async with reading(served, id) as stream:
            events = await stream.until("response.output_text.delta")
            goes_on.append(True)
            # It ends where there is no room, and its reader may come again.
            assert await stream.rest() == []
        assert said(events) == "x" * 1000
        await until(lambda: bodies.bytes == 0)
        bodies.take(12_000)
        for query in ("", "?stream=true", "/input_items"):
            answer = await served.get(f"{PATH}/{id}{query}")
            assert (answer.status, answer.json["error"]["code"]) == (503, "bodies_over_budget")
        bodies.give_back(12_000)
        assert (await look(served, id))["status"] == "in_progress"
