"""The faults, by name: each does its harm, and returns once it is done."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from actors.directory.known_instance import Instance
from clusters.api_client import auth_headers
from clusters.chaos.answer import Answer
from clusters.chaos.counting import LAST, CountingLoad
from clusters.chaos.streamed_apis import Api, counting_question, streamed_api
from clusters.chaos.targets import Targets

STILL_S = 10.0
"""How long a process stands still: longer than any channel bears."""
SLOW_READERS = 50
STORM_CLIENTS = 1000
STORM_S = 0.5


@dataclass(slots=True)
class Scene:
    """Where faults happen.

    Attributes:
        targets: The fleet's processes.
        url: Where it answers.
        model: The model under load.
        load: The load.
        random: Picks the victims.
        hit: Answers that were being read when a fault last took its victims.
    """

    targets: Targets
    url: str
    model: str
    load: CountingLoad
    random: random.Random
    hit: list[Answer] = field(default_factory=list)

    def look(self) -> None:
        """Remembers the answers that are being read now; before, while the victim was looked for, others were."""
        self.hit = list(self.load.open)

    async def take(self, victim: Instance, pids: list[int], number: signal.Signals = signal.SIGKILL) -> list[str]:
        """Signals processes without which the instance is nothing; returns its id."""
        await self.targets.take(victim, pids, number)
        self.look()
        return [victim.id]


class NotHere(Exception):
    """The fleet has nothing that this fault could happen to; says what is missing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of harm.

    Attributes:
        name: For the command line and the table.
        what: One line for a person.
        strike: Does it, and returns the ids of the instances that it took. Raises NotHere where it cannot happen.
        cuts: Whether connections of clients break by it, as nothing can be done about.
        lasts: Whether what it takes may never come back: it happens only where it is asked for by name.
    """

    name: str
    what: str
    strike: Callable[[Scene], Awaitable[Sequence[str]]]
    cuts: bool = False
    lasts: bool = False


async def _kill_actor(scene: Scene) -> list[str]:
    victim = await _victim(scene)
    return await scene.take(victim, [victim.pid])


async def _stop_actor(scene: Scene) -> list[str]:
    victim = await _victim(scene)
    await scene.targets.signal(victim.node, [victim.pid], signal.SIGSTOP)
    scene.look()
    await asyncio.sleep(STILL_S)
    # Serve may have replaced it by now.
    with suppress(ProcessLookupError):
        await scene.targets.signal(victim.node, [victim.pid], signal.SIGCONT)
    return [victim.id]


async def _kill_engine(scene: Scene) -> list[str]:
    victim, pids = await _engine(scene)
    return await scene.take(victim, pids[:1])


async def _stop_engine(scene: Scene) -> list[str]:
    victim, pids = await _engine(scene)
    return await scene.take(victim, pids, signal.SIGSTOP)


async def _kill_node(scene: Scene) -> list[str]:
    nodes = await scene.targets.killable_nodes()
    victims = [one for one in await scene.targets.instances() if one.model == scene.model and one.node in nodes]
    if not victims:
        raise NotHere("it takes a node beside the head and the routers")
    carrying = [one for one in victims if one.load.running] or victims
    return await scene.targets.kill_node(scene.random.choice(carrying).node, scene.look)


async def _kill_router(scene: Scene) -> list[str]:
    await scene.targets.kill_a_router()
    return []


async def _kill_directory(scene: Scene) -> list[str]:
    await scene.targets.kill(await scene.targets.directory())
    return []


async def _kill_controller(scene: Scene) -> list[str]:
    await scene.targets.kill(await scene.targets.controller())
    return []


async def _kill_all(scene: Scene) -> list[str]:
    others = await scene.targets.controller(), await scene.targets.directory()
    victim = await _victim(scene)
    # The instance first: Ray may take seconds to kill the others, in which the answers read from it come to their end.
    taken = await scene.take(victim, [victim.pid])
    await scene.targets.kill(*others)
    return taken


async def _kill_all_and_router(scene: Scene) -> list[str]:
    await scene.targets.kill_a_router()
    return await _kill_all(scene)


async def _upgrade(scene: Scene) -> list[str]:
    await scene.targets.upgrade()
    return []


async def _read_late(scene: Scene) -> list[str]:
    await scene.load.read_late(SLOW_READERS, STILL_S)
    return []


async def _disconnect(scene: Scene) -> list[str]:
    """Many clients that ask for a long answer and leave in the middle of it."""
    chat = streamed_api(Api.CHAT)
    body = chat.body(scene.model, counting_question(1, LAST))

    async def leave(session: aiohttp.ClientSession) -> None:
        async with session.post(scene.url + chat.path, json=body, allow_redirects=False) as response:
            await response.content.readany()
            await asyncio.sleep(scene.random.random() * STORM_S)
            response.close()

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=auth_headers(scene.url)
    ) as session:
        await asyncio.gather(*(leave(session) for _ in range(STORM_CLIENTS)))
    return []


async def _victim(scene: Scene) -> Instance:
    instances = {one.id: one for one in await scene.targets.instances() if one.model == scene.model}
    if len(instances) < 2:
        raise NotHere("it takes two ready instances of the model")
    # The one that most clients are reading from: one that has just come up would not be missed. Answers of realtime
    # sessions do not say their instance; then the one that runs most, as it last said itself.
    await scene.load.is_read()
    reading = Counter(answer.instance for answer in scene.load.open)
    return max(instances.values(), key=lambda one: (reading[one.id], one.load.running, scene.random.random()))


async def _engine(scene: Scene) -> tuple[Instance, list[int]]:
    victim = await _victim(scene)
    pids = await scene.targets.engine_processes(victim)
    if not pids:
        raise NotHere("the engine has no process of its own")
    return victim, pids


FAULTS: tuple[Fault, ...] = (
    Fault("kill-actor", "an engine actor is killed (kill -9)", _kill_actor),
    Fault("stop-actor", f"an engine actor stands still for {STILL_S:g} s (SIGSTOP)", _stop_actor),
    Fault("kill-engine", "the process of an engine is killed, its actor lives", _kill_engine),
    Fault("stop-engine", "the processes of an engine stand still for good", _stop_engine),
    Fault("kill-directory", "the directory is killed", _kill_directory),
    Fault("kill-controller", "Serve's controller is killed", _kill_controller),
    Fault("kill-all", "controller, directory and an engine actor are killed at once", _kill_all),
    Fault("disconnects", f"{STORM_CLIENTS} clients leave in the middle of their answers", _disconnect),
    Fault("slow-readers", f"{SLOW_READERS} clients read nothing for {STILL_S:g} s, then everything", _read_late),
    Fault("rolling-upgrade", "the fleet is deployed anew: every replica is replaced, one after another", _upgrade),
    Fault("kill-router", "a router replica is killed: its own connections drop", _kill_router, cuts=True),
    Fault(
        "kill-all-and-router",
        "controller, directory, a router replica and an engine actor are killed at once",
        _kill_all_and_router,
        cuts=True,
    ),
    Fault(
        "kill-node", "every process of a node is killed at once, all its instances among them", _kill_node, lasts=True
    ),
)
