"""What a request is reckoned by where one instance of several is picked for it, and what becomes of that."""

import time
from collections.abc import Callable
from secrets import token_bytes
from typing import Protocol

from deployments.model_settings import PolicyName
from deployments.routing.cached_prefixes import CachedPrefixes, Sending
from deployments.routing.instance_cache import CachingInstance
from deployments.routing.policies import ByCache, KvAware, LeastLoaded, Policy, PowerOfTwo, Random, RoundRobin
from deployments.routing.prefill_cost import Costs, LoadedInstance
from deployments.routing.prompt_chain import ChainHasher, PromptChain
from engines.call_requests import Request
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.prefix_chunks import SentChain
from engines.requests import GenerateRequest
from engines.sink import Sink


class ReckonedInstance(CachingInstance, LoadedInstance, Protocol):
    """An instance, as far as a request for it is reckoned."""


class Placements:
    """The prompts of one model on their way to instances.

    Args:
        model: Its name.
        policy: How an instance is picked: some policies look at prompts. None: by the cache of those that tell of it.
        key: Of the hashes by which prompts are known; the same for all routers that tell one another. None: of its own.
        hasher: What makes chains of them; None: by their text.
        clock: Seconds that only grow.

    Attributes:
        prefixes: What the instances have cached, where the policy looks at that.
        costs: Of what was placed so far, where the policy looks at them.
    """

    def __init__(
        self,
        model: str,
        policy: PolicyName | None,
        key: Callable[[], bytes] | None = None,
        hasher: ChainHasher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own_key = token_bytes(16)
        self._policy = policy
        self._hasher = hasher or ChainHasher(model, key or (lambda: own_key))
        self.prefixes = CachedPrefixes(clock)
        self.costs = Costs()
        # Of the request that is being placed: its instance is picked and its prompt sent in one turn of the event loop.
        self._latest: tuple[Request, PromptChain] | None = None

    def policy(self) -> Policy:
        """A policy of its own for requests that have a turn of their own."""
        match self._policy:
            case "round_robin":
                return RoundRobin()
            case "random":
                return Random()
            case "power_of_two":
                return PowerOfTwo()
            case "least_loaded":
                return LeastLoaded(tokens=self._hasher.tokens)
            case "kv_aware":
                return KvAware(self.prefixes, self.chain)
            case None:
                return ByCache(KvAware(self.prefixes, self.chain), LeastLoaded(tokens=self._hasher.tokens))

    def looks_at_caches(self, instance: CachingInstance) -> bool:
        """Whether it matters for a request to this instance what it has cached."""
        return self._policy == "kv_aware" or (self._policy is None and instance.reports_cache)

    def chain(self, request: Request) -> PromptChain:
        """What is known of a request's prompt."""
        if self._latest is None or self._latest[0] is not request:
            self._latest = request, self._hasher.chain(request)
        return self._latest[1]

    def place(self, request: GenerateRequest, instance: ReckonedInstance) -> "Placement | None":
        """A request is about to be sent to an instance. None where the policy looks at no prompts."""
        resumed = sum(map(len, request.generated))
        if not self.looks_at_caches(instance):
            if self._policy not in ("least_loaded", None):
                return None
            tokens = self._hasher.tokens(request) + resumed
            self.costs.count(instance, tokens)
            return Placement(tokens)
        chain = self.chain(request)
        self._latest = None
        [expected] = self.prefixes.expected(chain, [instance])
        tokens = int(self.prefixes.prompt_tokens(chain) - expected) + resumed
        self.costs.count(instance, tokens)
        return Placement(max(1, tokens), self.prefixes.send(chain, instance), chain.sent() if chain.prefixes else None)


class Placement:
    """One request on its way.

    Args:
        tokens: How many have to be computed before its first one is generated.
        sending: Its prompt's; None: nobody wants to know what becomes of it.
        prefixes: Its prompt's; None: nobody wants to know them, or there are none.
    """

    __slots__ = ("_sending", "prefixes", "tokens")

    def __init__(self, tokens: int, sending: Sending | None = None, prefixes: SentChain | None = None) -> None:
        self.tokens = tokens
        self.prefixes = prefixes
        self._sending = sending

    def heard(self, sink: Sink) -> Sink:
        """The sink of its stream, which hears of its prompt besides."""
        return sink if self._sending is None else _PlacedSink(sink, self._sending)

    def refused(self) -> None:
        """The instance did not take it."""
        if self._sending is not None:
            self._sending.failed()


class _PlacedSink:
    """Passes a stream on, and tells what it says of its prompt."""

    __slots__ = ("_emit", "_has_begun", "_sending", "_sink")

    def __init__(self, sink: Sink, sending: Sending) -> None:
        self._sink = sink
        self._emit = sink.emit
        self._sending = sending
        self._has_begun = False

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if not self._has_begun:
            if event.__class__ is Started:
                if event.prompt_tokens is not None:
                    self._sending.read(event.prompt_tokens)
            elif event.__class__ is Finished and not event.usage.completion_tokens:
                self._sending.failed()
            else:
                self._has_begun = True
                self._sending.began()
        if event.__class__ is Finished and self._has_begun:
            self._sending.finished(event.usage)
        self._emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream; nothing comes after it."""
        if not self._has_begun:
            self._sending.failed()
        self._sink.fail(error)
