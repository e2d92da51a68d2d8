"""One response in the background, as the router replica makes it that holds its lease."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from deployments.database.background_lease import Lease, LeaseLost
from deployments.database.background_responses import NewResponse
from deployments.database.database import DatabaseUnavailable
from deployments.http.responses.background.batches import Batch, Told
from deployments.http.responses.background.feeds import Feeds
from deployments.http.responses.background.request import BackgroundRequest
from deployments.http.responses.background.told import Head, ToldResponse
from deployments.http.responses.keeping import is_said, kept_response
from deployments.http.responses.reasoning import Sealer
from deployments.http.responses.response_object import End, cancelled, end_of, failed_by
from deployments.http.server.access_log import request_line
from deployments.http.server.exchange import Services
from deployments.http.server.refusals import InternalError
from deployments.request_meter import RequestMeter
from deployments.tenants.tenant_view import held_to, model_of
from engines.context import Context
from engines.errors import (
    Cancelled,
    EngineFailed,
    EngineFault,
    InstanceLost,
    Overload,
    PenstockError,
    Timeout,
    Unauthorized,
    Unavailable,
)
from engines.events import Event, Finished, Started, Usage
from engines.operators.migration import is_greedy
from engines.operators.replay import Diverged, Replay
from engines.requests import GenerateRequest, Resume
from engines.sink import Mailbox
from engines.turns import Turns

logger = logging.getLogger(__name__)

ENDPOINT = "/v1/responses in the background"
"""What metrics and the access log call it."""
RENEW_S = 4.0
"""How often a lease is renewed where nothing else is written."""
GATHER_S = 0.05
"""From one batch to the next: what an engine says meanwhile is one write to the database."""
MOST_LOSSES = 5
"""A response whose router replicas were lost so often in a row, with nothing said in between, is tried no more."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
"""How long one waits that found no room, until it is tried again."""
_AGAIN_S = 0.5
_JITTER = random.SystemRandom()

Outcome = Literal["completed", "incomplete", "failed", "cancelled", "waits", "handed_over", "lost"]
"""What became of a response while a router replica had it."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the database has of a response."""

    input: str
    request: BackgroundRequest


class Run:
    """Makes a response: goes on from what was said of it, and stores what is said before anybody reads of it.

    Args:
        services: What requests share; they have a database.
        lease: The response's.
        feeds: Where batches are told of once they are stored.
        new: The response as it was stored a moment ago; None: it is read from the database.
    """

    def __init__(self, services: Services, lease: Lease, feeds: Feeds, new: NewResponse | None = None) -> None:
        assert services.storage is not None
        self._services = services
        self._bounds = services.settings.responses.background
        self._background = services.storage.background
        self._kept = services.storage.responses
        self._lease = lease
        self._feeds = feeds
        self._new = new
        # An engine may still have what a holder before this one has asked it.
        self._context = Context(f"{lease.id}-{lease.epoch}")
        self._stored: _Stored | None = None
        self._told: ToldResponse | None = None
        self._meter: RequestMeter | None = None
        self._instance: str | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._is_ending = False

    async def run(self) -> Outcome:
        """Makes it, as far as it comes.

        Cancelling this leaves the response as it is, to be given back; but one that is just being stored is.
        """
        self._renewing = asyncio.get_running_loop().create_task(self._renew())
        making = asyncio.get_running_loop().create_task(self._make())
        try:
            try:
                await asyncio.wait([making, self._renewing], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                if not self._is_ending:
                    self._count(Cancelled.status, Cancelled.code)
                    raise
            if self._is_ending:
                await asyncio.wait([making])
            outcome: Outcome = making.result() if making.done() else "lost"
        finally:
            self._context.kill()
            for task in (making, self._renewing):
                task.cancel()
            await asyncio.wait([making, self._renewing])
            self._feeds.look()
        if outcome == "lost":
            self._lease.is_over = True
            self._count(Cancelled.status, Cancelled.code)
        return outcome

    async def _renew(self) -> None:
        """Holds the lease; returns when it is lost."""
        with suppress(LeaseLost):
            while True:
                await asyncio.sleep(RENEW_S)
                await self._background.write(self._lease, None)

    def _stop_renewing(self) -> None:
        """From here on the lease may be over, which is no loss."""
        assert self._renewing is not None
        self._is_ending = True
        self._renewing.cancel()

    async def _make(self) -> Outcome:
        try:
            return await self._ended()
        except (LeaseLost, DatabaseUnavailable):
            # What was not stored was not told, and whoever takes it next makes it anew.
            return "lost"

    async def _ended(self) -> Outcome:
        error: PenstockError
        try:
            await self._load()
            return await self._end(await self._answered())
        except (DatabaseUnavailable, LeaseLost):
            raise
        except PenstockError as problem:
            error = problem
        except Exception:
            logger.exception("response %s failed", self._lease.id)
            error = InternalError()
        self._context.kill()
        self._count(error.status, error.code)
        if (
            self._told is None
            and time.time() >= self._lease.created_s + self._bounds.max_wait_s + self._bounds.max_run_s
        ):
            logger.error("response %s cannot be read, and is removed", self._lease.id)
            await self._background.delete(self._lease.id, self._lease.tenant)
            return "failed"
        if self._told is None or self._may_wait(error):
            self._stop_renewing()
            await self._background.release(self._lease, self._wait_s(error), had_no_room=True)
            return "waits"
        if error.status >= EngineFailed.status:
            # It may quote the request, which is not to write lines of its own.
            logger.warning("response %s: %s: %r", self._lease.id, error.code, f"{error.message} {error.detail}")
        return await self._end(failed_by(error, self._lease.id, int(time.time())))

    async def _load(self) -> None:
        """Reads what the database has of it, and tells that to itself."""
        with self._services.bodies.room() as room:
            room.grow_to(self._lease.bytes)
            # Whatever a client has sent is kept no longer than it takes to ask an engine.
            new, self._new = self._new, None
            batches: Sequence[str] = ()
            if new is None:
                new, batches = await self._background.load(self._lease)
            self._stored = _Stored(new.input, await BackgroundRequest.parse(new.request))
            sealer = Sealer(self._services.secret, self._lease.tenant)
            told = ToldResponse(Head.parse(new.id, new.head), sealer.seal, is_made=True)
            told.opening()
            turns = Turns()
            for batch in batches:
                told.tell(Batch.parse(batch))
                await turns.pause()
        self._told = told

    async def _answered(self) -> End:
        """How it ends.

        Raises:
            LeaseLost: The response is not this replica's any more.
            PenstockError: It does not end well, or not yet.
        """
        assert self._stored is not None and self._told is not None
        if self._lease.is_cancelled:
            return cancelled(int(time.time()))
        if self._lease.losses > MOST_LOSSES:
            raise EngineFault("The router replicas that made the response were lost, one after another.")
        asking, services = self._stored.request.asking, self._services
        holder = services.keys.holder_of(self._stored.request.key)
        if holder is None:
            if not services.keys.is_ready:
                raise Unavailable("The server cannot read its keys.")
            raise _key_is_gone()
        with services.keys.running(holder, self._context), asking.names.spoken():
            request, replay = self._rest(asking.request)
            model = model_of(services.fleet, holder.tenant, request.model)
            self._meter = services.metrics.begin(ENDPOINT)
            self._meter.model, self._meter.tenant = model.name, holder.tenant.name
            mailbox = Mailbox()
            engine = held_to(holder.tenant, services.quotas, model.engine)
            try:
                await engine.submit(request, self._context, mailbox)
                return await self._heard(mailbox, replay)
            except Cancelled:
                # Nothing else cancels it that lets this go on.
                raise _key_is_gone() from None

    def _rest(self, request: GenerateRequest) -> tuple[GenerateRequest, Replay | None]:
        """What an engine is asked for, and what it will say that was said already, if it says it again.

        Raises:
            InstanceLost: Nobody can go on with what was said.
        """
        told = self._told
        assert told is not None
        if told.said.is_empty or told.started is None:
            return request, None
        # Whoever was named may be gone.
        if told.started.resumable:
            resume = Resume.model_construct(choices=[told.token_ids], vocabulary=told.started.vocabulary)
            return request.model_copy(update={"resume": resume, "instance": None}), None
        if not is_greedy(request.sampling):
            raise InstanceLost("The answer broke off, and this model cannot go on with it elsewhere.")
        return request.model_copy(update={"instance": None}), Replay(told.said)

    async def _heard(self, mailbox: Mailbox, replay: Replay | None) -> End:
        """Hears an engine until it has finished, and stores what it says."""
        assert self._told is not None
        before = len(self._told.token_ids)
        while True:
            events = await self._next(mailbox)
            last = events[-1]
            new = self._new_part(events, replay)
            if isinstance(last, Finished):
                self._told.tell_new(new)
                self._told.finish(last)
                return self._finished(last, before)
            if new:
                number, batch = self._lease.batches, self._told.tell_new(new).text
                await self._background.write(self._lease, batch)
                self._lease.started_s = self._lease.started_s or time.time()
                self._feeds.publish(self._lease.id, number, batch)
            await asyncio.sleep(GATHER_S)

    async def _next(self, mailbox: Mailbox) -> Sequence[Event]:
        try:
            async with asyncio.timeout(max(0.0, self._ends_s - time.time())):
                return await mailbox.get_all()
        except TimeoutError:
            raise Timeout("total", self._bounds.max_run_s) from None

    def _new_part(self, events: Sequence[Event], replay: Replay | None) -> list[Told]:
        """What was not said before."""
        assert self._told is not None and self._meter is not None
        new: list[Told] = []
        try:
            for event in events:
                if isinstance(event, Started):
                    self._instance = event.engine
                    if self._told.started is None:
                        new.append(event)
                elif isinstance(event, Finished):
                    if replay is not None and not replay.is_over:
                        raise Diverged("it ended before what was said before.")
                else:
                    part = event if replay is None else replay.new_part(event)
                    if part is not None:
                        self._meter.first_token()
                        self._meter.tokens += len(getattr(part, "token_ids", ()))
                        new.append(part)
        except Diverged as error:
            raise InstanceLost(f"The answer broke off, and is another one elsewhere: {error}") from None
        return new

    def _finished(self, event: Finished, before: int) -> End:
        """The end of a response, of which so many tokens were there before this replica took it."""
        told, meter, usage = self._told, self._meter, event.usage
        assert told is not None and meter is not None
        prompt_tokens = usage.prompt_tokens
        if before and told.started is not None:
            prompt_tokens = max(prompt_tokens, told.started.prompt_tokens or 0)
        completion_tokens = max(usage.completion_tokens, len(told.token_ids))
        whole = Usage(
            prompt_tokens, completion_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.cache_write_tokens
        )
        mine = Usage(prompt_tokens, completion_tokens - before, usage.cached_tokens)
        meter.finish(mine, event.reasons)
        return end_of(told.output.ended_by, whole, int(time.time()))

    async def _end(self, end: End) -> Outcome:
        """Stores it as it has ended, where every other response is."""
        told, stored = self._told, self._stored
        assert told is not None and stored is not None
        self._stop_renewing()
        told.cut_short()
        kept = kept_response(told.response, told.output, end, stored.input, stored.request.place)
        place = stored.request.place
        items = [*stored.request.added, *told.output.items] if is_said(place, end) else ()
        lease = self._lease
        while True:
            try:
                await self._kept.keep(kept, lease.tenant, items, self._background.removing(lease))
                break
            except DatabaseUnavailable:
                if time.monotonic() >= lease.until_s:
                    raise
                await asyncio.sleep(_AGAIN_S)
        lease.is_over = True
        await self._feeds.finish(kept)
        self._count(200, None)
        return end.status  # type: ignore[return-value]  # it has ended

    @property
    def _ends_s(self) -> float:
        """Unix time at which it has taken too long."""
        return (self._lease.started_s or time.time()) + self._bounds.max_run_s

    @property
    def _last_s(self) -> float:
        """Unix time until which it is tried again."""
        if self._told is not None and self._told.started is not None:
            return self._ends_s
        return self._lease.created_s + self._bounds.max_wait_s

    def _wait_s(self, error: PenstockError) -> float:
        """How long it is left alone: longer each time, and it is tried again before its time is over."""
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._lease.tries, 10))
        wait_s = max(wait_s, min(error.retry_after_s or 0.0, _LONGEST_WAIT_S)) * _JITTER.uniform(0.75, 1.25)
        return max(0.0, min(wait_s, self._last_s - time.time()))

    def _may_wait(self, error: PenstockError) -> bool:
        """Whether it is worth trying again, and there is time for that."""
        if isinstance(error, Timeout) and error.phase == "total":
            return False
        if not (error.transient or isinstance(error, Overload | Unavailable)):
            return False
        assert self._told is not None and self._stored is not None
        if self._told.started is not None and not (
            self._told.started.resumable
            or self._told.said.is_empty
            or is_greedy(self._stored.request.asking.request.sampling)
        ):
            return False
        return time.time() < self._last_s

    def _count(self, status: int, code: str | None) -> None:
        """The engine's work on it is over, for this time."""
        meter, self._meter = self._meter, None
        if meter is None:
            return
        self._services.metrics.end(meter, status, code)
        line = request_line(
            meter,
            id=self._lease.id,
            peer=None,
            method="POST",
            instance=self._instance,
            moves=self._context.moves,
            status=status,
            code=code,
        )
        self._services.access_log.write(line, is_refused=code is not None and self._instance is None)


def _key_is_gone() -> Unauthorized:
    return Unauthorized("The API key with which the response was asked for is not valid any more.")
