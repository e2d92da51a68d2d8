"""The push router: an engine around all instances of all models.

It knows nothing of Ray: where the instances are and how to reach one is handed in, so a test routes over engines of
its own process. Operators that act on whole streams (Migration, Retry) wrap it: what fails before an instance took the
request is tried on the next one here; what fails later is the stream's error, and passes through.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

from actors.channel.frames import SESSIONS, News
from actors.directory.known_instance import Instance
from deployments.fleet_engine import FleetEngine, ModelCard
from deployments.fleet_settings import ModelSettings
from deployments.routing.fault_budget import FaultBudget, Trial, TrialSink
from deployments.routing.faults import is_fault
from deployments.routing.members import Connect, Link, Member, Members, Watch
from deployments.routing.route import Route
from deployments.routing.sessions import LeasedSink
from engines.context import Context
from engines.contract import Capabilities, Load, Sink
from engines.errors import Cancelled, ModelNotFound, Overload, PenstockError, Unsupported
from engines.events import Finished, FinishReason, Started, Usage
from engines.requests import (
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    Request,
    Tokenized,
    TokenizeRequest,
)

TRIAL_WAIT_S = 20.0
"""How long a request that must be tried alone waits for its turn, at least."""
TRIAL_POLL_S = 0.05

R = TypeVar("R", GenerateRequest, EmbedRequest, TokenizeRequest, DetokenizeRequest)
T = TypeVar("T")


class PushRouter(FleetEngine):
    """Sends each request to an instance of its model.

    Args:
        models: The served models, and how each is routed.
        watch: Source of the instances.
        connect: Makes the link to one.
        name: Its label.
        node: Where it lives itself: a node that is surely alive.
        convict: Tells the other routers of a request that takes engines with it, by its fingerprint; returns when
            they know.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        watch: Watch,
        connect: Connect,
        *,
        name: str = "router",
        node: str = "",
        convict: Callable[[str], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities()
        self._created_s = int(time.time())
        self._routes = [
            Route(model.name, model.aliases, model.routing, partial(self._members_of, model.name)) for model in models
        ]
        self._by_name = {name: route for route in self._routes for name in (route.model, *route.aliases)}
        faults = {route.model: route.faults for route in self._routes}
        self._node = node
        self._tell = convict
        self._telling: dict[str, asyncio.Task[None]] = {}  # By the fingerprint.
        self.fault_budget = FaultBudget(self._node_lives, self._convict)
        self._members = Members(watch, connect, faults, self._changed, self._heard, self._died)
        self._waiting: set[Callable[[object], None]] = set()

    @property
    def ready(self) -> bool:
        """Whether every model has an instance that a request can be sent to."""
        return all(any(member.is_open for member in self._members.of(route.model)) for route in self._routes)

    async def start(self) -> None:
        """Begins to follow the instances; returns when it knows which there are, ready or not."""
        await self._members.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Waits for what is under way, no longer than the deadline, then closes every link."""
        deadline_s = time.monotonic() + timeout_s
        while self._members.in_flight and time.monotonic() < deadline_s:  # noqa: ASYNC110 - the links signal no end
            await asyncio.sleep(0.05)
        await self._members.stop()

    async def check_health(self) -> None:
        """Returns while it hears of instances; having none to send to is not its illness.

        Raises:
            RuntimeError: It does not.
        """
        self._members.check()

    def models(self) -> Sequence[ModelCard]:
        """As `FleetEngine.models`."""
        return [
            ModelCard(
                name=route.model,
                aliases=route.aliases,
                created_s=self._created_s,
                ready=sum(member.is_open for member in members),
                instances=len(members),
                capabilities=next((member.capabilities for member in members if member.is_present), Capabilities()),
            )
            for route in self._routes
            for members in [self._members.of(route.model)]
        ]

    def instances(self) -> Sequence[Instance]:
        """As `FleetEngine.instances`."""
        return [member.seen() for route in self._routes for member in self._members.of(route.model)]

    def load(self) -> Load:
        """What is under way through this router, on every instance."""
        return Load(running=self._members.in_flight)

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`: returns when an instance took the request.

        Raises:
            ModelNotFound: No such model is served.
            Unsupported: The model does not generate.
            Overloaded: Every instance refused.
            InstanceNotFound: It names one that the model does not have.
            NoInstance: None can take it, or not the one that it names.
            PenstockError: As the instance says.
        """
        route, request = self._route(request)
        session = route.session(request)

        async def call(member: Member, link: Link, trial: Trial | None) -> None:
            if not member.capabilities.generate:
                raise Unsupported(f"The model {route.model!r} does not generate text.", param="model")
            asked, heard = request, sink
            if trial is not None:
                asked, heard = request.model_copy(update={"alone": True}), TrialSink(sink, trial)
            if session is None:
                await link.submit(asked, context, heard)
                return
            lease = route.affinity.reserve(session.id, member.id)
            try:
                await link.submit(asked, context, LeasedSink(heard, lease))
            except BaseException:
                lease.release()
                raise

        try:
            await self._dispatch(route, request, context, call)
        except _StoppedEarly:
            sink.emit(Started(self.name, route.model))
            reason: FinishReason = "cancelled"
            sink.emit(Finished((reason,) * request.sampling.n, Usage(), self.name))

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """As `Engine.embed`; raises as `submit`."""
        route, request = self._route(request)
        session = route.session(request)

        async def call(member: Member, link: Link, trial: Trial | None) -> Embeddings:
            if not member.capabilities.embed:
                raise Unsupported(f"The model {route.model!r} does not make embeddings.", param="model")
            lease = None if session is None else route.affinity.reserve(session.id, member.id)
            member.calls += 1
            try:
                embeddings = await link.embed(request, context)
                if lease is not None:
                    lease.keep()
            finally:
                member.calls -= 1
                if lease is not None:
                    lease.release()
            if trial is not None:
                trial.acquit()
            return embeddings

        try:
            return await self._dispatch(route, request, context, call)
        except _StoppedEarly:
            raise _cancelled(context) from None

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """As `Engine.tokenize`; raises as `submit`."""
        return await self._ask(request, lambda link, request: link.tokenize(request))

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """As `Engine.detokenize`; raises as `submit`."""
        return await self._ask(request, lambda link, request: link.detokenize(request))

    def _members_of(self, model: str) -> list[Member]:
        return self._members.of(model)

    def _route(self, request: R) -> tuple[Route, R]:
        """The route of the request's model, and the request with the model's own name."""
        name: str = request.model
        route = self._by_name.get(name)
        if route is None:
            raise ModelNotFound(name, tuple(self._by_name))
        return route, request if name == route.model else request.model_copy(update={"model": route.model})

    async def _ask(self, request: R, ask: Callable[[Link, R], Awaitable[T]]) -> T:
        """What an instance answers to a request without a stream."""
        route, request = self._route(request)

        async def call(_: Member, link: Link, trial: Trial | None) -> T:
            answer = await ask(link, request)
            if trial is not None:
                trial.acquit()
            return answer

        return await self._dispatch(route, request, Context(), call)

    async def _dispatch(
        self,
        route: Route,
        request: Request,
        context: Context,
        call: Callable[[Member, Link, Trial | None], Awaitable[T]],
    ) -> T:
        """Calls one instance after another until one takes the request.

        Raises:
            _StoppedEarly: The context was stopped before that.
            EngineFault: Engines die of it.
            Quarantined: Engines died of the same request minutes ago.
        """
        route.check(request)
        began_s = time.monotonic()
        deadline_s = began_s + route.settings.wait_s
        trial_deadline_s = began_s + max(route.settings.wait_s, TRIAL_WAIT_S)
        refused: set[Link] = set()
        refusals: list[PenstockError] = []
        while True:
            if context.is_killed:
                raise _cancelled(context)
            if context.is_stopped:
                raise _StoppedEarly
            suspect = await self._suspect(request, refusals)
            if suspect is None:
                member = route.choose(request, refused)
            elif self.fault_budget.is_on_trial(suspect):
                member = None
            else:
                member = route.choose(request, refused, self.fault_budget.has_trial)
            if member is None:
                # Overload does not end because another instance appears; what comes next is the caller's to decide.
                busy = suspect is None and any(isinstance(error, Overload) for error in refusals)
                wait_s = (deadline_s if suspect is None else trial_deadline_s) - time.monotonic()
                if busy or wait_s <= 0:
                    raise route.refusal(request, refusals) from (refusals[-1] if refusals else None)
                # Whether it is its turn to be tried alone, nothing tells.
                await self._change(context, wait_s if suspect is None else min(wait_s, TRIAL_POLL_S))
                if suspect is not None:
                    # Another router's may have been tried there.
                    refused.clear()
                continue
            link = member.link
            assert link is not None  # an open member has one
            tried = nullcontext() if suspect is None else self.fault_budget.try_alone(suspect, member.id)
            try:
                with tried as trial:
                    return await call(member, link, trial)
            except PenstockError as error:
                error.at(member.id)
                if context.is_stopped or not route.note(member, error):
                    raise
                refused.add(link)
                refusals.append(error)

    def _changed(self) -> None:
        known = [card.capabilities for card in self.models() if card.ready]
        self.capabilities = Capabilities(
            generate=any(one.generate for one in known),
            embed=any(one.embed for one in known),
            converse=any(one.converse for one in known),
            tokenize=any(one.tokenize for one in known),
            tools=any(one.tools for one in known),
            reasoning=any(one.reasoning for one in known),
            vision=any(one.vision for one in known),
            guided=any(one.guided for one in known),
            logprobs=any(one.logprobs for one in known),
            resume=any(one.resume for one in known),
            context_length=max((one.context_length for one in known), default=0),
        )
        for wake in [*self._waiting]:
            wake(None)

    def _heard(self, instance: Instance, news: News) -> None:
        if news.topic == SESSIONS:
            affinity = self._by_name[instance.model].affinity
            for session, idle_s in news.body:
                affinity.hear(session, instance.id, idle_s)

    def _died(self, instance: Instance, suspects: Sequence[Request]) -> None:
        self.fault_budget.died(instance.id, instance.node, suspects)

    def _node_lives(self, node: str, since_s: float) -> bool:
        return node == self._node or self._members.heard_of(node) > since_s

    def _convict(self, fingerprint: str) -> None:
        if self._tell is not None:
            task = self._telling[fingerprint] = asyncio.create_task(self._tell(fingerprint))
            task.add_done_callback(lambda _: self._telling.pop(fingerprint))

    async def _suspect(self, request: Request, refusals: Sequence[PenstockError]) -> str | None:
        """The fingerprint of a request that must be tried alone, else None.

        Raises:
            EngineFault: Engines die of it.
            Quarantined: Engines died of the same request minutes ago.
        """
        budget = self.fault_budget
        if not budget.is_watching:
            return None
        fingerprint = budget.fingerprint(request)
        resumed = isinstance(request, GenerateRequest) and request.resume is not None
        if (telling := self._telling.get(fingerprint)) is not None:
            # Whoever sends it again when this one has its answer must not find a router that does not know.
            await asyncio.shield(telling)
        budget.check(fingerprint, goes_on=resumed or any(is_fault(error) for error in refusals))
        return fingerprint if budget.is_suspect(fingerprint) else None

    async def _change(self, context: Context, timeout_s: float) -> None:
        """Returns when something about the instances changed, the context was stopped, or the time is up."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: object) -> None:
            if not changed.done():
                changed.set_result(None)

        self._waiting.add(wake)
        unsubscribe = context.on_stop(wake)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed, timeout_s)
        finally:
            unsubscribe()
            self._waiting.discard(wake)


class _StoppedEarly(Exception):
    """The context was stopped before an instance took the request."""


def _cancelled(context: Context) -> Cancelled:
    return Cancelled(f"The request {context.id} was cancelled.")
