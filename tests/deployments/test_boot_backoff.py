"""Instances that die at boot again and again wait longer each time, and say why."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from actors.directory.client import DirectoryClient
from actors.directory.known_instance import Instance, InstanceState
from deployments.boot_backoff import EARLY_S, MOST_S, BootBackoff, Failures, board_key
from deployments.model_settings import ModelSettings
from tests.deployments.test_fleet_life import Launch, fleet_of, launch  # noqa: F401 - a fixture
from tests.deployments.waiting import until

MODEL = ModelSettings(name="m", engine="scripted")


class Board:
    """Stands for the directory: a board, and what was announced."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.announced: list[Instance] = []
        self.is_away = False

    async def board(self, prefix: str = "") -> dict[str, bytes]:
        if self.is_away:
            raise RayActorError
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    async def post(self, key: str, value: bytes, ttl_s: float) -> None:
        if self.is_away:
            raise RayActorError
        self.values[key] = value

    async def announce(self, instance: Instance) -> bool:
        self.announced.append(instance)
        return True

    @property
    def count(self) -> int:
        return int(json.loads(self.values[board_key(MODEL)])["count"]) if self.values else 0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def boot(board: Board, clock: Clock) -> Callable[[], BootBackoff]:
    def make() -> BootBackoff:
        client: Any = board
        return BootBackoff(client, Instance("m-1", "m"), MODEL, clock)

    return make


@given(st.integers(0, 10_000), st.floats(0, 1e6))
def test_it_waits_longer_each_time_and_never_longer_than_the_most(count: int, later_s: float) -> None:
    now, next_one = Failures(count, 0.0), Failures(count + 1, 0.0)
    assert 0 <= now.wait_s(later_s) <= next_one.wait_s(later_s) <= MOST_S
    assert now.wait_s(MOST_S) == 0


def test_it_doubles_from_one_second() -> None:
    waits = [Failures(count).wait_s(0.0) for count in range(10)]
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


async def test_failures_in_a_row_count_and_one_version_of_a_model_does_not_wait_for_another(
    board: Board, clock: Clock, boot: Callable[[], BootBackoff]
) -> None:
    for count in range(1, 5):
        one = boot()
        clock.now_s += 100
        await one.failed("no weights")
        assert board.count == count
    client: Any = board
    changed = MODEL.model_copy(update={"replicas": 2})
    async with asyncio.timeout(1):
        await BootBackoff(client, Instance("m-2", "m"), changed, clock).wait()
    assert board.announced == []


async def test_replicas_that_fail_together_count_once(
    board: Board, clock: Clock, boot: Callable[[], BootBackoff]
) -> None:
    replicas = [boot() for _ in range(4)]
    for replica in replicas:
        clock.now_s += 0.1
        await replica.failed("no weights")
    assert board.count == 1


async def test_one_that_dies_soon_after_its_boot_has_failed_and_one_that_lives_has_not(
    board: Board, clock: Clock, boot: Callable[[], BootBackoff]
) -> None:
    for count in (1, 2):
        early = boot()
        early.booted()
        clock.now_s += EARLY_S / 2
        await early.lives()
        await early.ended("the engine died")
        assert board.count == count
    sound = boot()
    sound.booted()
    clock.now_s += EARLY_S
    await sound.lives()
    assert board.count == 0
    await sound.ended("killed")
    assert board.count == 0


async def test_while_it_waits_it_says_why(board: Board, clock: Clock, boot: Callable[[], BootBackoff]) -> None:
    board.values[board_key(MODEL)] = json.dumps(asdict(Failures(3, clock.now_s - 1.7, "no weights"))).encode()
    async with asyncio.timeout(60):
        await boot().wait()
    (said,) = {instance.detail for instance in board.announced}
    assert said == "waits 0 s before it boots: 3 failed in a row, the last one with: no weights"
    assert board.announced[0].state is InstanceState.STARTING


async def test_a_directory_that_is_away_holds_up_nothing(
    board: Board, clock: Clock, boot: Callable[[], BootBackoff]
) -> None:
    board.is_away = True
    one = boot()
    await one.wait()
    await one.failed("no weights")
    one.booted()
    await one.ended("gone")


async def test_in_a_fleet(launch: Launch) -> None:  # noqa: F811
    settings = fleet_of("again", health={"period_s": 0.5})
    directory = DirectoryClient(settings.name)
    key = board_key(settings.models[0])

    async def failures() -> Failures:
        value = (await directory.board(key)).get(key)
        return Failures(**json.loads(value)) if value is not None else Failures()

    seen: list[Instance] = []

    async def look() -> None:
        async for view in directory.watch():
            seen.extend(view.instances.values())

    async def fail() -> None:
        # Until it is seen to wait: nobody knows how long a busy machine takes to deploy it.
        while not any("waits" in instance.detail for instance in seen):
            value = json.dumps(asdict(Failures(4, time.time(), "no weights here"))).encode()
            await directory.post(key, value, 600)
            await asyncio.sleep(0.2)

    looking, failing = asyncio.create_task(look()), asyncio.create_task(fail())
    fleet = await launch(settings)

    async def is_ready() -> bool:
        return any(instance.state is InstanceState.READY for instance in await fleet.instances())

    await until(is_ready)
    await failing
    looking.cancel()
    await asyncio.wait([looking])
    waiting = [instance for instance in seen if "waits" in instance.detail]
    assert waiting, {(instance.state, instance.detail) for instance in seen}
    assert re.fullmatch(r"waits \d+ s before it boots: 4 failed in a row, .*: no weights here", waiting[0].detail)
    (ready,) = await fleet.instances()
    assert waiting[0].id == ready.id

    os.kill(ready.pid, signal.SIGKILL)

    async def is_counted() -> bool:
        return (await failures()).count == 5

    await until(is_counted)
    assert "within" in (await failures()).reason
