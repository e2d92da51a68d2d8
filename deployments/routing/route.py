"""The instances of one model, as one engine: each request goes to one of them.

What fails before an instance took the request is tried on the next one here; what fails later is the stream's error,
and passes through to the operators around it (Migration).
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar, cast

from actors.directory.known_instance import Instance
from deployments.routing.fault_budget import FaultBudget, Trial, TrialSink
from deployments.routing.faults import is_fault
from deployments.routing.members import InstanceEgress, Member, Members
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

R = TypeVar("R", bound=Request)
T = TypeVar("T")


class Route(PushEngine):
    """All instances of one model.

    A request that names the model by an alias goes on under the model's own name.

    Args:
        picker: Picks one of them.
        members: All members of the router.
        fault_budget: Which requests may be the end of instances.
        adapter: The model's LoRA adapter that answers; None: the model itself.
    """

    def __init__(
        self, picker: InstancePicker, members: Members, fault_budget: FaultBudget, adapter: str | None = None
    ) -> None:
        self.name = adapter or picker.model
        self._model = picker.model
        self._adapter = adapter
        self._picker = picker
        self._members = members
        self._fault_budget = fault_budget

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of its instances, which are all alike; the default ones until one is ready."""
        present = (member.capabilities for member in self._members.of(self._model) if member.is_present)
        return next(present, Capabilities())

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

        async def submit(member: Member, egress: InstanceEgress, trial: Trial | None) -> None:
            if not member.capabilities.generate:
                raise Unsupported(f"The model {self.name!r} does not generate text.", param="model")
            asked, heard = request, sink
            if trial is not None:
                asked, heard = request.model_copy(update={"alone": True}), TrialSink(sink, trial)
            if session is None:
                await egress.submit(asked, context, heard)
                return
            lease = self._picker.affinity.reserve(session.id, member.id)
            try:
                await egress.submit(asked, context, LeasedSink(heard, lease))
            except BaseException:
                lease.release()
                raise

        try:
            await self._dispatch(request, context, submit)
        except _StoppedEarly:
            sink.emit(Started(self.name, self.name))
            sink.emit(Finished.cancelled(request.sampling.n, self.name))

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream; raises what `submit` raises."""
        request = self._addressed(request)
        session = self._picker.session(request)

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
            return await self._dispatch(request, context, call)
        except _StoppedEarly:
            raise context.cancellation() from None

    def _addressed(self, request: R) -> R:
        """The request with the model's own name, and this route's adapter, whatever its caller put there."""
        if request.model == self._model and request.adapter == self._adapter:
            return request
        return cast("R", request.model_copy(update={"model": self._model, "adapter": self._adapter}))

    async def _dispatch(
        self, request: Request, context: Context, ask: Callable[[Member, InstanceEgress, Trial | None], Awaitable[T]]
    ) -> T:
        """Asks one instance after another until one takes the request.

        Raises:
            _StoppedEarly: The context was stopped before that.
        """
        picker, budget = self._picker, self._fault_budget
        picker.check(request)
        began_s = time.monotonic()
        deadline_s = min(began_s + picker.settings.wait_s, context.deadline_s)
        trial_deadline_s = min(began_s + max(picker.settings.wait_s, TRIAL_WAIT_S), context.deadline_s)
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
                busy = suspect is None and any(isinstance(error, Overload) for error in refusals)
                wait_s = (deadline_s if suspect is None else trial_deadline_s) - time.monotonic()
                if busy or wait_s <= 0:
                    raise picker.refusal(request, refusals) from (refusals[-1] if refusals else None)
                # Whether it is its turn to be tried alone, nothing tells.
                await self._members.change(context, wait_s if suspect is None else min(wait_s, TRIAL_POLL_S))
                if suspect is not None:
                    # Another router's may have been tried there.
                    refused.clear()
                continue
            egress = member.egress
            assert egress is not None  # an open member has one
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


class _StoppedEarly(Exception):
    """The context was stopped before an instance took the request."""
