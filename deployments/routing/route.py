"""The instances of one model, as one engine: each request goes to one of them.

What fails before an instance took the request is tried on the next one here; what fails later is the stream's error,
and passes through to the operators around it (Migration).
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TypeVar, cast

from actors.directory.known_instance import Instance
from deployments.prompt_size import most_prompt_tokens
from deployments.routing.demand_meter import Asked, DemandMeter, MeteredSink
from deployments.routing.fault_budget import FaultBudget, Trial, TrialSink
from deployments.routing.faults import is_fault
from deployments.routing.held_requests import Held, HeldRequests
from deployments.routing.member import InstanceEgress, Member
from deployments.routing.members import Members
from deployments.routing.picker import InstancePicker
from deployments.routing.sessions import LeasedSink
from engines.call_requests import Answer, CallRequest, Request
from engines.context import Context
from engines.contract import Capabilities, Load, PushEngine, unsupported
from engines.errors import Overload, PenstockError, Unsupported
from engines.events import Finished, Started
from engines.requests import GenerateRequest
from engines.sink import Sink

TRIAL_WAIT_S = 20.0
"""How long a request that must be tried alone waits for its turn, at least."""
TRIAL_POLL_S = 0.05
FULL_POLL_S = 0.25
"""How often a request that was held asks again at instances that are full with others that were."""

R = TypeVar("R", bound=Request)
T = TypeVar("T")


class Route(PushEngine):
    """All instances of one model.

    A request that names the model by an alias goes on under the model's own name.

    Args:
        picker: Picks one of them.
        members: All members of the router.
        fault_budget: Which requests may be the end of instances.
        held: The requests that wait for one.
        adapter: The model's LoRA adapter that answers; None: the model itself.
        meter: Counts what is asked of the model; None: nobody wants to know.
    """

    def __init__(
        self,
        picker: InstancePicker,
        members: Members,
        fault_budget: FaultBudget,
        held: HeldRequests,
        adapter: str | None = None,
        meter: DemandMeter | None = None,
    ) -> None:
        self.name = adapter or picker.model
        self._model = picker.model
        self._adapter = adapter
        self._picker = picker
        self._members = members
        self._fault_budget = fault_budget
        self._held = held
        self._meter = meter
        self._capabilities = Capabilities()

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of its instances, which are all alike; the default ones until one was ready."""
        present = (member.capabilities for member in self._members.of(self._model) if member.is_present)
        self._capabilities = next(present, self._capabilities)
        return self._capabilities

    @property
    def is_asleep(self) -> bool:
        """Whether it has no instance to send to, but holds requests until one has booted, as far as is known."""
        if not self._picker.settings.wait_s or self.ready:
            return False
        # What waits before it boots failed to boot.
        return not any(member.instance.detail for member in self._members.of(self._model))

    @property
    def ready(self) -> bool:
        """Whether a request can be sent to one of its instances."""
        return any(member.is_open for member in self._members.of(self._model))

    async def start(self) -> None:
        """Returns at once: the router opens the egresses, for all models."""

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Returns at once: the router closes the egresses, for all models."""

    async def check_health(self) -> None:
        """Returns while it hears of instances; having none to send to is not its illness.

        Raises:
            RuntimeError: It does not.
        """
        self._members.check()

    def load(self) -> Load:
        """What is under way through this router, on every instance of the model."""
        return Load(running=self._members.in_flight(self._model))

    def instances(self) -> Sequence[Instance]:
        """Every instance of the model that is not gone, with its latest load."""
        return [member.seen() for member in self._members.of(self._model)]

    @property
    def open_instances(self) -> int:
        """How many of them a request can be sent to."""
        return sum(member.is_open for member in self._members.of(self._model))

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns when an instance took the request.

        Raises:
            Unsupported: The model does not generate.
            Overloaded: Every instance refused.
            InstanceNotFound: It names one that the model does not have.
            NoInstance: None can take it, or not the one that it names.
            EngineFault: Engines die of it.
            Quarantined: Engines died of the same request minutes ago.
            PenstockError: As the instance says.
        """
        request = self._addressed(request)
        session = self._picker.session(request)
        asked_for = None if self._meter is None else self._meter.arrive(request)
        if asked_for is not None:
            sink = MeteredSink(sink, asked_for)

        async def submit(member: Member, egress: InstanceEgress, trial: Trial | None) -> None:
            if not member.capabilities.generate:
                raise Unsupported(f"The model {self.name!r} does not generate text.", param="model")
            asked, heard = request, sink
            if trial is not None:
                asked, heard = request.model_copy(update={"alone": True}), TrialSink(sink, trial)
            placement = self._picker.place(request, member)
            if placement is not None:
                asked = asked.model_copy(update={"prefill_tokens": placement.tokens, "prefixes": placement.prefixes})
                heard = placement.heard(heard)
            lease = None if session is None else self._picker.affinity.reserve(session.id, member.id)
            if lease is not None:
                heard = LeasedSink(heard, lease)
            try:
                await egress.submit(asked, context, heard)
            except BaseException:
                if placement is not None:
                    placement.refused()
                if lease is not None:
                    lease.release()
                raise

        try:
            await self._dispatch(request, context, submit, asked_for)
        except _StoppedEarly:
            sink.emit(Started(self.name, self.name))
            sink.emit(Finished.cancelled(request.sampling.n, self.name))
        except BaseException:
            if asked_for is not None:
                asked_for.over()
            raise

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream; raises what `submit` raises."""
        request = self._addressed(request)
        session = self._picker.session(request)
        asked_for = None if self._meter is None else self._meter.arrive(request)

        async def call(member: Member, egress: InstanceEgress, trial: Trial | None) -> Answer:
            if not getattr(member.capabilities, request.capability):
                raise unsupported(request)
            lease = None if session is None else self._picker.affinity.reserve(session.id, member.id)
            if request.runs_model:
                member.calls += 1
            try:
                answer = await egress.call(request, context)
                if lease is not None:
                    lease.keep()
            finally:
                if request.runs_model:
                    member.calls -= 1
                if lease is not None:
                    lease.release()
            if trial is not None:
                trial.acquit()
            return answer

        try:
            return await self._dispatch(request, context, call, asked_for)
        except _StoppedEarly:
            raise context.cancellation() from None
        finally:
            if asked_for is not None:
                asked_for.over()

    def _addressed(self, request: R) -> R:
        """The request with the model's own name, and this route's adapter, whatever its caller put there."""
        if request.model == self._model and request.adapter == self._adapter:
            return request
        return cast("R", request.model_copy(update={"model": self._model, "adapter": self._adapter}))

    async def _dispatch(
        self,
        request: Request,
        context: Context,
        ask: Callable[[Member, InstanceEgress, Trial | None], Awaitable[T]],
        asked_for: Asked | None,
    ) -> T:
        """Asks one instance after another until one takes the request; it is held while there is none.

        Raises:
            _StoppedEarly: The context was stopped before that.
        """
        with ExitStack() as place:
            return await self._try_all(request, context, ask, asked_for, place)

    async def _try_all(
        self,
        request: Request,
        context: Context,
        ask: Callable[[Member, InstanceEgress, Trial | None], Awaitable[T]],
        asked_for: Asked | None,
        place: ExitStack,
    ) -> T:
        picker, budget = self._picker, self._fault_budget
        picker.check(request)
        began_s = time.monotonic()
        patience_s = picker.settings.wait_s or 0.0
        deadline_s = min(began_s + patience_s, context.deadline_s)
        trial_deadline_s = min(began_s + max(patience_s, TRIAL_WAIT_S), context.deadline_s)
        held: Held | None = None
        was_held = False
        refused: set[InstanceEgress] = set()
        refusals: list[PenstockError] = []
        resumed = isinstance(request, GenerateRequest) and request.resume is not None
        while True:
            if context.is_killed:
                raise context.cancellation()
            if context.is_stopped:
                raise _StoppedEarly
            suspect = await budget.suspect(request, goes_on=resumed or any(is_fault(error) for error in refusals))
            if suspect is None:
                member = picker.choose(request, refused)
            elif budget.is_on_trial(suspect):
                member = None
            else:
                member = picker.choose(request, refused, budget.has_trial)
            if member is None:
                # Overload does not end because another instance appears; what comes next is the caller's to decide.
                is_full = any(isinstance(error, Overload) for error in refusals)
                busy = suspect is None and is_full and not was_held
                wait_s = (deadline_s if suspect is None else trial_deadline_s) - time.monotonic()
                if busy or wait_s <= 0:
                    raise picker.refusal(request, refusals) from (refusals[-1] if refusals else None)
                # What goes on has a place among those that run, and waits for another whatever others do.
                if held is None and suspect is None and not resumed:
                    held = place.enter_context(self._hold(request))
                    was_held = True
                    context.note_held()
                if held is not None and held.gives_way:
                    raise self._held.no_place()
                if suspect is not None:
                    # Whether it is its turn to be tried alone, nothing tells.
                    wait_s = min(wait_s, TRIAL_POLL_S)
                elif is_full:
                    # Those that were held with it have come first, and will have ended at some time.
                    wait_s = min(wait_s, FULL_POLL_S)
                    refused.clear()
                    refusals.clear()
                await self._members.change(context, wait_s, held)
                if suspect is not None:
                    # Another router's may have been tried there.
                    refused.clear()
                continue
            egress = member.egress
            assert egress is not None  # an open member has one
            place.close()
            held = None
            if asked_for is not None:
                asked_for.sent(member.id, member.wake_s)
            tried = nullcontext() if suspect is None else budget.try_alone(suspect, member.id)
            try:
                with tried as trial:
                    return await ask(member, egress, trial)
            except PenstockError as error:
                error.at(member.id)
                if context.is_stopped or not picker.note(member, error):
                    raise
                refused.add(egress)
                refusals.append(error)
                if asked_for is not None:
                    asked_for.came_back()

    def _hold(self, request: Request) -> AbstractContextManager[Held]:
        """A place to wait in for the request.

        Raises:
            NoInstance: There is none.
        """
        if not self._members.of(self._model):
            self._held.cold_starts += 1
        if isinstance(request, GenerateRequest):
            size = most_prompt_tokens(request) + sum(len(attachment.data) for attachment in request.attachments)
        else:
            size = request.size
        return self._held.hold("" if request.tenant is None else request.tenant.name, size)


class _StoppedEarly(Exception):
    """The context was stopped before an instance took the request."""
