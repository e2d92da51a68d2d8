"""Sessions in the database: what was said is there, in its order, and one replica at a time holds them."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database import kept_sessions, session_record
from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_sessions import KeptSessions, SessionNotFound
from deployments.database.session_record import SessionRecord, TakenUp
from deployments.database.storage import Storage
from deployments.database.tables import REALTIME_ITEMS, REALTIME_SESSIONS
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from engines.conversation.frames import START, Append, Item, TurnSettings
from engines.conversation.journal import ConversationLimits, Journal
from engines.errors import InvalidRequest
from engines.messages import Message
from engines.requests import Sampling
from tests.turns import others_go_on

LIMITS = ConversationLimits()


def a_session() -> str:
    return f"sess_{uuid.uuid4().hex}"


def said(item: str, text: str = "hello", after: str | None = None, *, open: bool = False) -> Append:
    return Append(item=item, message=Message(role="user", content=text), after=after, open=open)


class Held:
    """A session as a replica holds it."""

    def __init__(
        self,
        storage: Storage,
        id: str,
        taken_up: TakenUp | None = None,
        *,
        tenant: str = "team",
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.storage = storage
        self.settings = TurnSettings() if taken_up is None else taken_up.settings
        self.journal = Journal(LIMITS)
        for item in () if taken_up is None else taken_up.items:
            self.journal.put(item)
        self.record = SessionRecord(id, tenant, "demo", taken_up, lost)
        self.record.lifetime_s = 300.0
        self.record.follow(self.journal, lambda: self.settings, lambda: storage.sessions.mark(self.record))

    async def committed(self) -> None:
        await self.storage.sessions.committed(self.record)


async def a_storage(settings: DatabaseSettings, **realtime: int) -> Storage:
    storage = Storage(settings, HttpSettings.model_validate({"realtime": realtime}))
    await storage.start()
    return storage


async def test_another_replica_goes_on_with_what_was_said(settings: DatabaseSettings) -> None:
    ours, theirs = await a_storage(settings), await a_storage(settings)
    held = Held(ours, id := a_session())
    held.settings = TurnSettings(instructions="Be \0 brief.", sampling=Sampling(temperature=0.5))
    # A database takes no NUL in a text, and a client may put one everywhere.
    for item in (said("a\0", "\0 \U0001f600 'x'"), said("c"), said("b", after="a\0"), said("z", after=START)):
        held.journal.append(item)
    await held.committed()
    taken_up = await theirs.sessions.take_up(id, "team", "demo")
    assert list(taken_up.items) == held.journal.items()
    assert [item.id for item in taken_up.items] == ["z", "a\0", "b", "c"]
    assert taken_up.settings == held.settings
    again = Held(theirs, id, taken_up)
    again.journal.delete("a\0")
    again.journal.append(said("a\0", "another", after="b"))
    again.journal.append(said("first", after=START))
    await again.committed()
    third = await ours.sessions.take_up(id, "team", "demo")
    assert list(third.items) == again.journal.items()
    await ours.stop()
    await theirs.stop()


async def test_taking_a_long_one_up_leaves_the_event_loop_to_others(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await a_storage(settings)
    held = Held(storage, id := a_session())
    for number in range(4):
        held.journal.append(said(str(number)))
    await held.committed()
    async with others_go_on() as steps:

        def parse(text: str) -> Item:
            steps.take()
            return Item.model_validate_json(text)

        monkeypatch.setattr(kept_sessions, "Item", SimpleNamespace(model_validate_json=parse))
        taken_up = await storage.sessions.take_up(id, "team", "demo")
    assert list(taken_up.items) == held.journal.items()
    steps.check(4)
    await storage.stop()


async def test_whoever_held_it_has_lost_it(settings: DatabaseSettings) -> None:
    ours, theirs = await a_storage(settings), await a_storage(settings)
    lost = asyncio.Event()
    held = Held(ours, id := a_session(), lost=lost.set)
    await held.committed()
    taken_up = await theirs.sessions.take_up(id, "team", "demo")
    held.journal.append(said("late"))
    await held.committed()
    assert lost.is_set()
    again = Held(theirs, id, taken_up)
    again.journal.append(said("mine"))
    await again.committed()
    assert [item.id for item in (await ours.sessions.take_up(id, "team", "demo")).items] == ["mine"]
    await ours.stop()
    await theirs.stop()


async def test_nobody_else_takes_it_up(settings: DatabaseSettings) -> None:
    storage = await a_storage(settings)
    held = Held(storage, id := a_session())
    await held.committed()
    others = [(id, "other", "demo"), (id, "team", "large"), (a_session(), "team", "demo"), ("' OR 1=1", "team", "demo")]
    for other in others:
        with pytest.raises(SessionNotFound):
            await storage.sessions.take_up(*other)
    await storage.stop()


async def test_it_is_kept_for_its_time_and_no_longer(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sessions, "SWEEP_S", 0.01)
    storage = await a_storage(settings)
    now_s = 1000.0
    sessions = KeptSessions(storage.database, 2**30, lambda: now_s)
    await storage.sessions.stop()
    storage.sessions = sessions
    sessions.start()
    held = Held(storage, id := a_session())
    held.journal.append(said("a"))
    await held.committed()
    now_s += 299
    await sessions.take_up(id, "team", "demo")
    now_s += 1
    with pytest.raises(SessionNotFound):
        await sessions.take_up(id, "team", "demo")
    async with asyncio.timeout(60):
        while await rows(storage):  # noqa: ASYNC110 - a database sets no event
            await asyncio.sleep(0.01)
    await storage.stop()


async def rows(storage: Storage) -> int:
    """How many rows there are, of sessions and of items."""

    async def counted(connection: AsyncConnection) -> int:
        queries = [select(func.count()).select_from(table) for table in (REALTIME_SESSIONS, REALTIME_ITEMS)]
        return sum([(await connection.execute(query)).scalar_one() for query in queries])

    return await storage.database.run(counted)


async def test_a_tenant_fills_its_own_share_alone(settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_sessions, "SWEEP_S", 0.01)
    storage = await a_storage(settings, max_kept_bytes_per_tenant=10_000)
    neighbour = Held(storage, a_session(), tenant="neighbour")
    neighbour.journal.append(said("a", "x" * 9_000))
    await neighbour.committed()
    greedy = []
    for place in range(4):
        held = Held(storage, a_session())
        held.record.lifetime_s = 300.0 + place
        held.journal.append(said("a", "x" * 4_000))
        await held.committed()
        greedy.append(held)
    async with asyncio.timeout(60):
        while await rows(storage) > 6:  # noqa: ASYNC110 - a database sets no event
            await asyncio.sleep(0.01)
    # Those that would go first have gone; who holds one goes on, and it is not kept any more.
    greedy[0].journal.append(said("b"))
    await greedy[0].committed()
    with pytest.raises(SessionNotFound):
        await storage.sessions.take_up(greedy[0].record.id, "team", "demo")
    await storage.sessions.take_up(greedy[3].record.id, "team", "demo")
    await storage.sessions.take_up(neighbour.record.id, "neighbour", "demo")
    await storage.stop()


async def test_what_could_not_be_written_is_written_later(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await a_storage(settings)
    held = Held(storage, id := a_session())
    held.journal.append(said("a"))
    await held.committed()
    storage.database.problem = "It is away."
    held.journal.append(said("b"))
    with pytest.raises(DatabaseUnavailable):
        await held.committed()
    held.journal.delete("a")
    held.journal.append(said("c"))
    storage.database.problem = ""
    await held.committed()
    assert [item.id for item in (await storage.sessions.take_up(id, "team", "demo")).items] == ["b", "c"]
    await storage.stop()


async def test_many_sessions_go_into_few_transactions(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await a_storage(settings)
    transactions = count()
    inner = storage.database.run

    async def counted(work: Any) -> Any:
        next(transactions)
        return await inner(work)

    monkeypatch.setattr(storage.database, "run", counted)
    held = [Held(storage, a_session()) for _ in range(500)]
    for one in held:
        one.journal.append(said("a"))
    await asyncio.gather(*(one.committed() for one in held))
    assert next(transactions) < 10
    await storage.stop()


async def test_one_that_cannot_be_written_takes_no_other_along(
    settings: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await a_storage(settings)
    bad, good = Held(storage, a_session()), Held(storage, a_session())
    await asyncio.gather(bad.committed(), good.committed())
    good.journal.append(said("a"))
    # What no JSON holds, nor any text of a database.
    bad.settings = TurnSettings.model_construct(instructions="\ud83d")
    bad.record.touch()
    done = await asyncio.gather(bad.committed(), good.committed(), return_exceptions=True)
    assert isinstance(done[0], DatabaseUnavailable) and done[1] is None
    assert "cannot be written" in caplog.text
    # Nor does it end what writes them.
    good.journal.append(said("b"))
    await good.committed()
    taken_up = await storage.sessions.take_up(good.record.id, "team", "demo")
    assert [item.id for item in taken_up.items] == ["a", "b"]
    await storage.stop()


ITEMS = ["a", "b", "c", "d", "e"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(ITEMS), st.sampled_from([None, START, *ITEMS]), st.booleans()),
        st.tuples(st.just("delete"), st.sampled_from(ITEMS)),
        st.tuples(st.just("answer"), st.integers(0, 2)),
        st.just(("reserve",)),
        st.just(("commit",)),
        st.just(("take up",)),
        st.just(("fail",)),
    ),
    max_size=60,
)


@given(steps=STEPS, most_gone=st.sampled_from([2, 8192]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_happens_the_database_has_the_journal(steps: list[tuple[object, ...]], most_gone: int) -> None:
    async def run() -> None:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_record, "_MOST_GONE", most_gone)
            storage = await a_storage(DatabaseSettings(file=str(Path(folder) / "a.sqlite")))
            try:
                await apply(storage, steps)
            finally:
                await storage.stop()

    asyncio.run(run())


async def apply(storage: Storage, steps: list[tuple[object, ...]]) -> None:
    held = Held(storage, id := a_session())
    turns, open_turns = count(), []
    for step in (*steps, ("take up",)):
        match step:
            case ("append", str(item), after, bool(is_open)):
                with suppress(InvalidRequest):
                    held.journal.append(said(item, after=after, open=is_open))  # type: ignore[arg-type]
            case ("delete", str(item)):
                with suppress(InvalidRequest):
                    held.journal.delete(item)
            case ("reserve",):
                open_turns.append(turn := f"turn{next(turns)}")
                held.journal.reserve(turn)
            case ("answer", int(many)) if open_turns:
                turn = open_turns.pop(0)
                message = Message(role="assistant", content=turn)
                held.journal.fill(turn, [Item(id=f"{turn}.{place}", message=message) for place in range(many)])
            case ("commit",):
                await held.committed()
            case ("fail",):
                # Nobody knows whether it was written.
                held.record.give_back(held.record.take_changes())
            case ("take up",):
                await held.committed()
                taken_up = await storage.sessions.take_up(id, "team", "demo")
                assert list(taken_up.items) == held.journal.items()
                # The places of answers that were to be given are gone with whoever held it.
                held, open_turns = Held(storage, id, taken_up), []


def test_between_two_items_there_is_always_room() -> None:
    journal = Journal(LIMITS)
    record = SessionRecord(a_session(), "team", "demo", None, lambda: None)
    record.follow(journal, TurnSettings, lambda: None)
    journal.append(said("first"))
    journal.append(said("last"))
    for place in range(200):
        journal.append(said(f"item{place}", after="first"))
    rows = sorted(record.take_changes().rows, key=lambda row: row["position"])
    assert len({row["position"] for row in rows}) == len(rows)
    assert [Item.model_validate_json(row["item"]) for row in rows] == journal.items()
