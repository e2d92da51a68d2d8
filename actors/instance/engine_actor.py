"""The Ray actor that hosts one engine, pinned to its GPUs."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray

from actors.channel.inline_reports import report_inline
from actors.channel.upstream import Upward
from actors.directory.client import Announcer, DirectoryClient
from actors.directory.known_instance import Instance
from actors.frozen_heap import freeze_heap
from actors.instance.engine_host import EngineHost
from actors.instance.followers import Followers
from actors.settings import AdmissionSettings, ChannelSettings, SleepSettings
from actors.switch_interval import shorten_switch_interval
from engines.call_requests import Answer, CallRequest
from engines.registry import EngineSpec

_MAX_CONCURRENCY = 10_000
"""Calls under way in one actor. An open channel is one; admission is the gate's work, not Ray's."""


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _streams(method: _Method) -> _Method:
    marked: _Method = ray.method(num_returns="streaming")(method)
    return marked


def _answers_nothing(method: _Method) -> _Method:
    # No object per call to make, send and count; what fails is heard of through the channel.
    marked: _Method = ray.method(num_returns=0)(method)
    return marked


class EngineActor:
    """Hosts one engine: the far side of every channel that leads to it. Made by `create_engine_actor`.

    Calls without an answer (`send`, `acknowledge`, `close`) run to their end in one turn of the event loop, but not
    always in the order in which their caller made them (see `actors.channel.upstream`). Errors of the others reach
    their caller as they were raised, through `actors.channel.calls.result`.

    Args:
        instance_id: Stable label of the instance, unique in its fleet.
        fleet: Name of the fleet.
        spec: What the engine is made from.
        admission: How much work it takes.
        channel: How its channels behave.
        incarnation: Grows with each actor that lives under this id.
        followers: Ray's options for the actors on the further nodes of an engine that spreads over several.
        sleep: When the engine sleeps; None: never.
    """

    def __init__(
        self,
        instance_id: str,
        fleet: str,
        spec: EngineSpec,
        admission: AdmissionSettings,
        channel: ChannelSettings,
        incarnation: int,
        followers: Sequence[Mapping[str, Any]],
        sleep: SleepSettings | None = None,
    ) -> None:
        report_inline()
        context = ray.get_runtime_context()
        instance = Instance(
            id=instance_id,
            model=spec.model,
            node=context.get_node_id(),
            incarnation=incarnation,
            actor=context.current_actor,
            pid=os.getpid(),
        )
        self._followers = Followers(instance_id, _name(instance_id, incarnation), fleet, spec, followers)
        self._host = EngineHost(instance, self._followers.spec, admission, channel, self._on_change, sleep)
        self._watch: asyncio.Task[None] | None = None
        self._announcer = Announcer(DirectoryClient(fleet), self._host.describe)

    async def boot(self) -> Instance:
        """Makes the engine and starts it; announces the instance from now on. Returns it, ready.

        Raises:
            PenstockError: It cannot boot; the instance is announced as gone.
        """
        self._announcer.start()
        self._followers.start()
        self._watch = asyncio.get_running_loop().create_task(self._end_with_followers())
        await self._host.boot()
        freeze_heap()
        shorten_switch_interval()
        return self._host.describe()

    async def describe(self) -> Instance:
        """The instance as it is now."""
        return self._host.describe()

    async def check_health(self, canary_idle_s: float = 30.0, timeout_s: float = 30.0, stall_s: float = 30.0) -> None:
        """Returns when the engine can work; arguments and errors are those of `EngineHost.check_health`."""
        await self._host.check_health(canary_idle_s, timeout_s, stall_s)

    @_streams
    async def open(self, channel_id: str, after: int, first: int) -> AsyncIterator[bytes]:
        """The frames of a channel after frame `after`; 0 opens it, for requests numbered from `first`."""
        async for frame in self._host.open(channel_id, after, first):
            yield frame

    @_answers_nothing
    async def send(self, channel_id: str, batch: Sequence[Upward]) -> None:
        """Takes what the caller's end of a channel says of its requests."""
        self._host.send(channel_id, batch)

    @_answers_nothing
    async def acknowledge(self, channel_id: str, sequence: int) -> None:
        """The reader of a channel has had its frames up to this one."""
        self._host.acknowledge(channel_id, sequence)

    @_answers_nothing
    async def close(self, channel_id: str) -> None:
        """Closes a channel and kills its requests."""
        self._host.close(channel_id)

    async def call(self, request: CallRequest[Answer]) -> Answer:
        """Answers at once, without a stream; cancelling the call kills the request."""
        return await self._host.call(request)

    async def drain(self, timeout_s: float) -> None:
        """Takes no new work, and hands over what still runs after `timeout_s` seconds."""
        await self._host.drain(timeout_s)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Hands over what runs, stops the engine, and leaves the directory. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
        await self._host.stop(timeout_s)
        self._followers.kill()
        await self._announcer.withdraw()

    async def _end_with_followers(self) -> None:
        lost = await self._followers.ended()
        self._followers.kill()
        await self._host.lose(lost)

    def _on_change(self) -> None:
        self._announcer.changed()


def create_engine_actor(
    instance_id: str,
    fleet: str,
    spec: EngineSpec,
    admission: AdmissionSettings,
    channel: ChannelSettings,
    incarnation: int = 0,
    options: Mapping[str, Any] | None = None,
    followers: Sequence[Mapping[str, Any]] = (),
    sleep: SleepSettings | None = None,
) -> Any:
    """Creates the actor and returns its handle; then `await result(handle.boot.remote(), instance_id)`.

    The actor lives as long as its creator, who must keep this handle: those in an `Instance` do not keep the actor
    alive, so that no router or directory holds on to what its deployment gave up. It is never restarted under the same
    handle: a new incarnation is a new actor, so nobody mistakes it for the one that held its streams.

    Args:
        instance_id: As `EngineActor`, and so for the next five.
        fleet: Name of the fleet.
        spec: What the engine is made from.
        admission: How much work it takes.
        channel: How its channels behave.
        incarnation: Grows with each actor that lives under this id.
        options: Ray's options for it (`actors.instance.placement.actor_options`).
        followers: Those for the actors on its engine's further nodes.
        sleep: When its engine sleeps; None: never.
    """
    return (
        ray.remote(EngineActor)
        .options(
            name=_name(instance_id, incarnation),
            namespace=fleet,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=_MAX_CONCURRENCY,
            # Ray would report every submission and acknowledgement to its control service.
            enable_task_events=False,
            **(options or {}),
        )
        .remote(instance_id, fleet, spec, admission, channel, incarnation, followers, sleep)
    )


def _name(instance_id: str, incarnation: int) -> str:
    return f"{instance_id}.{incarnation}"
