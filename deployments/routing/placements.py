"""What a request is reckoned by where one instance of several is picked for it, and what becomes of that."""

from collections.abc import Callable
from secrets import token_bytes

from actors.sent_prefixes import pack
from deployments.model_settings import PolicyName
from deployments.routing.cached_prefixes import CachedPrefixes, CachingInstance, Sending
from deployments.routing.policies import KvAware, LeastLoaded, Policy, PowerOfTwo, Random, RoundRobin
from deployments.routing.prompt_chain import ChainHasher, PromptChain
from engines.call_requests import Request
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.requests import GenerateRequest
from engines.sink import Sink


class Placements:
    """The prompts of one model on their way to instances.

    Args:
        model: Its name.
        policy: How an instance is picked: some policies look at prompts.
        key: Of the hashes by which prompts are known; the same for all routers that tell one another. None: of its own.
        hasher: What makes chains of them; None: by their text.

    Attributes:
        prefixes: What the instances have cached, where the policy looks at that.
    """

    def __init__(
        self,
        model: str,
        policy: PolicyName,
        key: Callable[[], bytes] | None = None,
        hasher: ChainHasher | None = None,
    ) -> None:
        own_key = token_bytes(16)
        self._policy = policy
        self._hasher = hasher or ChainHasher(model, key or (lambda: own_key))
        self.prefixes = CachedPrefixes()
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

    def chain(self, request: Request) -> PromptChain:
        """What is known of a request's prompt."""
        if self._latest is None or self._latest[0] is not request:
            self._latest = request, self._hasher.chain(request)
        return self._latest[1]

    def place(self, request: GenerateRequest, instance: CachingInstance) -> "Placement | None":
        """A request is about to be sent to an instance. None where the policy looks at no prompts."""
        resumed = sum(map(len, request.generated))
        if self._policy == "least_loaded":
            return Placement(self._hasher.tokens(request) + resumed)
        if self._policy != "kv_aware":
            return None
        chain = self.chain(request)
        self._latest = None
        [expected] = self.prefixes.expected(chain, [instance])
        tokens = int(self.prefixes.prompt_tokens(chain) - expected) + resumed
        return Placement(max(1, tokens), self.prefixes.send(chain, instance), pack(chain.prefixes))


class Placement:
    """One request on its way.

    Args:
        tokens: How many have to be computed before its first one is generated.
        sending: Its prompt's; None: nobody wants to know what becomes of it.
        prefixes: Its prompt's, packed; empty: nobody wants to know them.
    """

    __slots__ = ("_sending", "prefixes", "tokens")

    def __init__(self, tokens: int, sending: Sending | None = None, prefixes: bytes = b"") -> None:
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
