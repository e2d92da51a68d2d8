"""One request at the instance's end of a channel: its context, its place at the gate, and the sink of its events."""

import asyncio
from typing import TYPE_CHECKING

from ray.exceptions import RayError

from actors.admission import Ticket
from actors.channel.calls import translate
from actors.channel.carriage import Carried, arrived
from actors.channel.frames import TRIED, News
from actors.shares import OUTPUT_COST, cost_of
from engines.context import Context
from engines.contract import Progress
from engines.errors import Cancelled, EngineDead, EngineFailed, PenstockError, QueueFull
from engines.events import Event, Finished, Started
from engines.requests import GenerateRequest

if TYPE_CHECKING:
    from actors.channel.instance_end import Channel

_ACKNOWLEDGED_POLL_S = 0.01
_TRIAL_WAIT_S = 5.0
"""How long a request that is to be tried waits for those before it to get something."""
_TOKEN_BYTES = 4
"""About how many bytes of a request make a token."""


class Call:
    """One request on a channel.

    Args:
        channel: The channel.
        number: Its number there.
        request: What is asked, without its attachments.
        context: Its identity, and the ways to end it.
        attachments: What travelled beside it.
        size: Bytes that it came in.
    """

    __slots__ = (
        "_attachments",
        "_channel",
        "_context",
        "_emit",
        "_goes_on",
        "_is_kept_back",
        "_is_over",
        "_number",
        "_prefill_tokens",
        "_prompt_cost",
        "_request",
        "_task",
        "_ticket",
    )

    def __init__(
        self,
        channel: "Channel",
        number: int,
        request: GenerateRequest,
        context: Context,
        attachments: tuple[Carried, ...],
        size: int,
    ) -> None:
        self._channel = channel
        self._number = number
        self._request = request
        self._attachments = attachments
        self._context = context
        self._emit = channel.outbox.emit
        self._prompt_cost = size / _TOKEN_BYTES  # Until the engine says how many tokens it is.
        expected = request.prefill_tokens
        self._prefill_tokens = int(self._prompt_cost) if expected is None else expected
        self._ticket: Ticket | None = None
        self._task: asyncio.Task[None] | None = None
        self._goes_on = False  # Whether its first piece was emitted.
        self._is_kept_back = False  # For a trial: its own, or another's.
        self._is_over = False

    def enter(self) -> None:
        """Goes to the gate, unless the instance takes no new work."""
        host = self._channel.host
        host.prefill.enter(self._prefill_tokens)
        refusal = host.refusal()
        if refusal is None and self._request.alone and not host.trials.enter(self):
            refusal = QueueFull(f"The instance {host.id} tries another request alone.", instance=host.id)
        if refusal is not None:
            self.fail(refusal)
            return
        request = self._request
        try:
            self._ticket = host.gate.enter(
                request.priority,
                self._admit,
                self.fail,
                weight=request.sampling.n,
                tenant=request.tenant,
                cost=self._prompt_cost,
                goes_on=request.resume is not None,
            )
        except PenstockError as error:
            self.fail(error)
            return
        if request.prefixes is not None:
            host.placed(request.prefixes.prefixes, self._channel)

    def emit(self, event: Event) -> None:
        """Takes the engine's next event."""
        if self._goes_on and event.__class__ is not Finished:
            self._emit(self._number, event)
            return
        outbox = self._channel.outbox
        if event.__class__ is Started:
            # Most often its first piece follows within milliseconds, and then shares its frame.
            outbox.emit_in_company(self._number, event)
            self._note_session()
            if event.prompt_tokens is not None:
                self._prompt_cost = event.prompt_tokens
            return
        outbox.emit_urgently(self._number, event)
        if event.__class__ is Finished:
            if self._ticket is not None:
                self._ticket.charge(cost_of(event.usage), exactly=True)
            self._channel.host.prefill.finish(event.usage)
            self._end(served=True)
        else:
            self._goes_on = True
            if not self._is_over:
                self._channel.host.prefill.begin(self._prefill_tokens)
                self._channel.host.trials.begun(self)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the request, before or after `Started`."""
        if self._is_over:
            return
        host = self._channel.host
        if isinstance(error, EngineDead):
            # Which tells the router of it, for all requests at once.
            host.engine_died(error)
            self._end(served=False)
            return
        self._channel.outbox.emit_urgently(self._number, error.at(host.id))
        self._end(served=self._goes_on)

    def stop(self) -> None:
        """Ends it politely, also while it waits at the gate."""
        if self._ticket is not None and self._ticket.is_waiting:
            engine = self._channel.host.id
            self.emit(Started(engine, self._request.model))
            self.emit(Finished.cancelled(self._request.sampling.n, engine))
        else:
            self._context.stop()

    def kill(self) -> None:
        """Ends it at once."""
        self._context.kill()
        # Most engines failed it just now; one that is still setting up, or the gate, did not.
        self.fail(Cancelled("The request was cancelled."))

    def hand_over(self, error: PenstockError) -> None:
        """Ends it with an error that lets it go on elsewhere, and frees its slot on the engine."""
        self.fail(error)
        self._context.kill()

    def progress(self) -> Progress | None:
        """How far it is; None where its engine cannot tell. Charges its tenant for as much."""
        if self._is_kept_back or (self._ticket is not None and self._ticket.is_waiting):
            return Progress(0, scheduled=False)
        progress = self._channel.host.engine.progress(self._context)
        if progress is not None and self._ticket is not None:
            generated = max(0.0, progress.tokens - self._prompt_cost * self._request.sampling.n)
            self._ticket.charge(progress.tokens + (OUTPUT_COST - 1) * generated)
            if generated:  # Hidden, perhaps.
                self._channel.host.trials.begun(self)
        return progress

    def _admit(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._submit())

    async def _submit(self) -> None:
        if self._is_over:
            return
        try:
            request = self._request
            if self._attachments:
                request = await self._with_attachments()
                if self._is_over:
                    return
            if request.alone or not self._channel.host.trials.may_begin(self):
                await self._begin_in_turn()
                if self._is_over:
                    return
            await self._channel.host.engine.submit(request, self._context, self)
        except PenstockError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the caller waits: it must hear of a bug, too
            self.fail(EngineFailed(f"The engine failed: {type(error).__name__}: {error}"))

    async def _begin_in_turn(self) -> None:
        """Returns when nobody is beside it that must not be, and, if it is to be tried, its router knows."""
        channel = self._channel
        self._is_kept_back = True
        try:
            # Who is in the middle of a long prompt is not waited for: whoever else came would wait as well.
            async with asyncio.timeout(_TRIAL_WAIT_S if self._request.alone else None):
                await channel.host.trials.begin(self)
        except TimeoutError:
            self.fail(QueueFull(f"The instance {channel.host.id} cannot try the request alone now."))
            return
        if self._is_over:
            channel.host.trials.leave(self)
        elif self._request.alone:
            # Should it be the end of this process, nothing of that is told any more.
            channel.broadcast(News(TRIED, self._number))
            sequence = channel.outbox.sent + 1
            while channel.outbox.acknowledged < sequence and not self._is_over:  # noqa: ASYNC110 - it is rare
                await asyncio.sleep(_ACKNOWLEDGED_POLL_S)
        self._is_kept_back = False

    async def _with_attachments(self) -> GenerateRequest:
        """The request as its engine takes it.

        Raises:
            InstanceLost: An attachment did not arrive.
        """
        carried, self._attachments = self._attachments, ()
        try:
            attachments = await arrived(carried)
        except RayError as error:
            raise translate(error, self._channel.host.id) from error
        return self._request.model_copy(update={"attachments": attachments})

    def _note_session(self) -> None:
        if self._request.session is not None:
            self._channel.host.served(self._request.session, self._channel)

    def _end(self, *, served: bool) -> None:
        if self._goes_on:
            self._note_session()
        elif not self._is_over:
            self._channel.host.prefill.leave(self._prefill_tokens)
        self._is_over = True
        self._channel.host.trials.leave(self)
        self._channel.forget(self._number)
        # The ticket knows the call: a large request must not wait for the garbage collector.
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.leave(failed=not served)
