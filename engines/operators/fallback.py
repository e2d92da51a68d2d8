"""Fallback: several engines as one; a request goes to the first that takes it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from engines.call_requests import Answer, CallRequest, Request
from engines.context import Context
from engines.contract import Capabilities, Engine, Load, PushEngine
from engines.errors import (
    EngineFault,
    Forbidden,
    InstanceNotFound,
    ModelNotFound,
    NotReady,
    Overload,
    PenstockError,
    ProviderRefused,
    Unauthorized,
)
from engines.requests import GenerateRequest
from engines.sink import Sink

T = TypeVar("T")

_OWN_FAULT_FROM = 500
"""Status from which an error is the server's own."""


def is_misconfigured(error: PenstockError) -> bool:
    """Whether an engine behind us refuses us, rather than the caller: our key is wrong, or our name for its model."""
    return isinstance(error, ProviderRefused | Unauthorized | Forbidden | ModelNotFound)


def may_move_on(error: PenstockError) -> bool:
    """Whether another engine may do better: not where the request is wrong, harmful, or its caller's to end."""
    if isinstance(error, EngineFault):
        return False
    if isinstance(error, Overload | InstanceNotFound) or is_misconfigured(error):
        return True
    return error.status >= _OWN_FAULT_FROM


class Fallback(PushEngine):
    """Answers with the first of several engines that takes the request; `Started` says which.

    An engine that is not ready comes after those that are, and whatever fails before it has said anything is tried on
    the next. It is never kept: the first engine gets the next request again as soon as it is ready.

    Args:
        name: Its name.
        members: The engines, the preferred one first; at least one.

    Attributes:
        members: As given.
        report: Hears what is to be counted or logged; whoever builds it may set it.
    """

    report: Callable[[Any], None] = staticmethod(lambda _: None)

    def __init__(self, name: str, members: Sequence[Engine]) -> None:
        if not members:
            raise ValueError("There must be an engine to fall back on.")
        self.name = name
        self.members = tuple(members)

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """What all that are ready can do: whichever answers can do it. The default ones until one is ready."""
        known = [member.capabilities for member in self.members if member.ready]
        return _common(known) if known else Capabilities()

    @property
    def ready(self) -> bool:
        """Whether one of them is."""
        return any(member.ready for member in self.members)

    async def start(self) -> None:
        """Starts all; returns when all are ready. Raises the error of one that cannot boot."""
        await asyncio.gather(*(member.start() for member in self.members))

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Stops all within the deadline. Idempotent."""
        await asyncio.gather(*(member.stop(timeout_s) for member in self.members))

    async def check_health(self) -> None:
        """Returns when one of them can work. Raises NotReady where none is ready."""
        if not self.ready:
            raise NotReady(f"None of the models behind {self.name!r} is ready.")

    def load(self) -> Load:
        """What is under way on all of them."""
        loads = [member.load() for member in self.members]
        return Load(sum(load.running for load in loads), sum(load.queued for load in loads))

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once one of the engines took the request. Raises the last one's error."""
        await self._first(request, context, lambda member: member.submit(request, context, sink))

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises the last engine's error where none can."""
        return await self._first(request, context, lambda member: member.call(request, context))

    def order(self, request: Request, context: Context) -> Sequence[Engine]:
        """The engines in the order in which a request is to try them."""
        return sorted(self.members, key=lambda member: not member.ready)

    def refused(self, member: Engine, error: PenstockError) -> None:
        """Hears that an engine did not take a request."""

    async def _first(self, request: Request, context: Context, ask: Callable[[Engine], Awaitable[T]]) -> T:
        members = self.order(request, context)
        for member in members:
            try:
                return await ask(member)
            except PenstockError as error:
                self.refused(member, error)
                if member is members[-1] or not may_move_on(error) or context.is_stopped:
                    raise
        raise AssertionError("there is at least one member")


def _common(known: Sequence[Capabilities]) -> Capabilities:
    """What all can do: a word of theirs that differs is left at its default, and a length is the shortest one."""
    common: dict[str, Any] = {}
    for field in fields(Capabilities):
        values = [getattr(capabilities, field.name) for capabilities in known]
        if isinstance(values[0], bool):
            common[field.name] = all(values)
        elif isinstance(values[0], int):
            common[field.name] = min((value for value in values if value), default=0)
        elif len(set(values)) == 1:
            common[field.name] = values[0]
    return Capabilities(**common)
