"""Kills instances of the demo fleet in the middle of answers, which must be those of an undisturbed run.

`RAY_AUTH_MODE=token python -m tests.chaos.exact_kills`, beside `make serve`. It ends with 1 if a single answer differs.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ray
from rich.console import Console

from actors.directory.known_instance import Instance, InstanceState
from clusters.chaos.targets import engine_pids
from deployments.handle import FleetHandle
from deployments.loopback_ray import prepare_to_join
from deployments.run_file import RunFile, find_fleet
from engines.completion import Completion, collect
from engines.context import Context
from engines.events import Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallArgumentsDelta
from engines.requests import GenerateRequest, Sampling
from tests.contract.asking import WEATHER, said

MODEL = "demo"
INSTANCES = 2
TRIES = 20
"""A moment comes too late where all of the answer was on its way already: a short one may have been."""
HELD_S = 0.5
"""How long the process stands still before it is killed: what is on its way arrives, and shows whether it was all."""
LONG = 3
"""These answers tell a moment while they count: the engine must not be at their end when they are read that far."""
COUNTING = 14
RECOVERY_S = 600.0
ANSWERS_S = 120.0
KILLS_S = 1800.0


@dataclass(frozen=True, slots=True)
class Kill:
    """When to kill what.

    Attributes:
        process: What is killed of the instance: the engine's own process, or the actor with it.
        moment: For a person.
        request: Whose answer tells the moment, and loses its instance.
        is_now: Whether this event of its answer, with its number, is the moment.
    """

    process: str
    moment: str
    request: int
    is_now: Callable[[Event, int], bool]


KILLS = (
    Kill("actor", "while it counts", 0, lambda event, number: isinstance(event, TextDelta) and number > 50),
    Kill(
        "engine", "inside of a tool call's arguments", COUNTING, lambda event, _: type(event) is ToolCallArgumentsDelta
    ),
    Kill("engine", "while it thinks", COUNTING + 1, lambda event, n: isinstance(event, ReasoningDelta) and n > 3),
    Kill("actor", "at its first token", 1, lambda event, _: isinstance(event, TextDelta)),
    Kill("engine", "while it counts", 2, lambda event, number: isinstance(event, TextDelta) and number > 60),
)


def requests() -> list[GenerateRequest]:
    """Sixteen answers, greedy: numbers, a tool call, a block of reasoning."""

    def asked(text: str, **fields: object) -> GenerateRequest:
        messages = [{"role": "user", "content": text}]
        sampling = Sampling(temperature=0.0)
        return GenerateRequest.model_validate({"model": MODEL, "messages": messages, "sampling": sampling, **fields})

    return [
        *(asked(f"count from {first} to {first + 899}") for first in range(1, 30 * LONG, 30)),
        *(asked(f"count from {first} to {first + 149}") for first in range(30 * LONG + 1, 30 * COUNTING, 30)),
        asked("what is the weather in San Francisco?", tools=[WEATHER]),
        asked("count from 3 to 90", chat_template_kwargs={"enable_thinking": True}),
    ]


@dataclass(slots=True)
class Answer:
    """One answer, and what was seen of it on the way."""

    request: GenerateRequest
    watch: Callable[[Event, int], None]
    began_on: str = ""
    ended_on: str = ""
    events: int = 0
    completion: Completion | None = None

    async def read(self, fleet: FleetHandle) -> None:
        """Reads it to its end."""

        async def watched() -> AsyncIterator[Event]:
            async for event in fleet.generate(self.request, Context()):
                self.events += 1
                if isinstance(event, Started):
                    self.began_on = event.engine
                elif isinstance(event, Finished):
                    self.ended_on = event.engine
                self.watch(event, self.events)
                yield event

        async with asyncio.timeout(ANSWERS_S):
            self.completion = await collect(watched())


@dataclass(slots=True)
class Fleet:
    """The fleet under test."""

    handle: FleetHandle
    killed: set[str] = field(default_factory=set)
    held: set[asyncio.Task[None]] = field(default_factory=set)
    said: list[object] = field(default_factory=list)

    async def ready(self) -> dict[str, int]:
        """Process of each ready instance; one that was killed is shown for some seconds more."""
        found = await self.handle.instances()
        return {instance.id: instance.pid for instance in found if self._is_ready(instance)}

    def _is_ready(self, instance: Instance) -> bool:
        return instance.state is InstanceState.READY and instance.id not in self.killed

    async def whole(self) -> dict[str, int]:
        """The same, once all of them are."""
        deadline_s = time.monotonic() + RECOVERY_S
        while len(ready := await self.ready()) < INSTANCES:
            if time.monotonic() > deadline_s:
                there = "; ".join(
                    f"{instance.id} {instance.state} {instance.detail}" for instance in await self.handle.instances()
                )
                sys.exit(f"Only {len(ready)} of {INSTANCES} are ready. Killed: {self.killed}. There: {there}")
            await asyncio.sleep(0.2)
        return ready

    async def undisturbed(self) -> None:
        """What the answers say when nobody is killed."""
        await self.whole()
        answers = [Answer(request, lambda *_: None) for request in requests()]
        await asyncio.gather(*(answer.read(self.handle) for answer in answers))
        self.said = [said(answer.completion) for answer in answers if answer.completion is not None]

    async def kill(self, kill: Kill) -> tuple[int, int, int]:
        """Asks everything again and kills: answers that changed their instance, that differ, and 1 if none was hurt."""
        # Looked up before: while one looks, an answer comes to its end.
        processes = {id: _process(actor, kill.process) for id, actor in (await self.whole()).items()}
        open_answers: list[Answer] = []

        async def end(victim: str, process: int) -> None:
            os.kill(process, signal.SIGSTOP)
            await asyncio.sleep(HELD_S)
            if open_answers[kill.request].ended_on:
                os.kill(process, signal.SIGCONT)
            else:
                self.killed.add(victim)
                os.kill(process, signal.SIGKILL)

        def watch(event: Event, number: int) -> None:
            victim = open_answers[kill.request].began_on
            if victim in processes and kill.is_now(event, number):
                task = asyncio.create_task(end(victim, processes.pop(victim)))
                self.held.add(task)
                task.add_done_callback(self.held.discard)

        for index, request in enumerate(requests()):
            open_answers.append(Answer(request, watch if index == kill.request else lambda *_: None))
        await asyncio.gather(*(answer.read(self.handle) for answer in open_answers))
        moved = [answer for answer in open_answers if answer.began_on != answer.ended_on]
        differ = sum(said(answer.completion) != before for answer, before in zip(open_answers, self.said, strict=True))
        return len(moved), differ, int(open_answers[kill.request] not in moved)


def _process(actor: int, process: str) -> int:
    return actor if process == "actor" else engine_pids(actor)[0]


async def run(kills: Sequence[Kill], fleet_file: RunFile) -> int:
    """The kills, one after another; 0 when every answer was what it should be."""
    console = Console(width=200)
    fleet = Fleet(FleetHandle(fleet_file.name))
    await fleet.undisturbed()
    bad = 0
    for number, kill in enumerate(kills, 1):
        for _ in range(TRIES):
            moved, differ, missed = await fleet.kill(kill)
            if differ or not missed:
                break
        figures = f"{len(fleet.said)} answers, {moved} moved, {differ} differ"
        late = ", and the one that was meant had ended" if missed else ""
        console.print(f"kill {number}: the {kill.process}, {kill.moment}: {figures}{late}", highlight=False)
        bad += differ + missed
    await fleet.whole()
    return 1 if bad else 0


def check_kills(environment: Mapping[str, str], *numbers: int) -> None:
    """Does the kills with these numbers to the fleet that was started in this environment.

    Raises:
        AssertionError: An answer was not what it should be.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.exact_kills", *map(str, numbers)],
        capture_output=True,
        text=True,
        timeout=KILLS_S,
        env={**environment, "RAY_AUTH_MODE": "token"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill ") == len(numbers), done.stdout


def main() -> int:
    """Entry point; takes the numbers of the kills to do, from 1, or none for all."""
    kills = [KILLS[int(number) - 1] for number in sys.argv[1:]] or KILLS
    found = find_fleet()
    prepare_to_join(found.ray_address)
    ray.init(address=found.ray_address, namespace=found.name, log_to_driver=False, configure_logging=False)
    return asyncio.run(run(kills, found))


if __name__ == "__main__":
    sys.exit(main())
