"""Engines with prefix caches, and routers before them, on a virtual clock: an hour of a trace takes seconds.

What is simulated is the engines and the wires. The routers are real: each has the picker, the members and the
placements of `deployments.routing`, and hears of an engine as late as the wire makes it.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from actors.directory.known_instance import Instance, InstanceState
from actors.prefill_meter import PrefillMeter
from actors.sent_prefixes import SentPrefixes
from deployments.model_settings import RoutingSettings
from deployments.routing.member import Member
from deployments.routing.picker import InstancePicker
from deployments.routing.placements import Placements
from deployments.routing.prompt_chain import ChainHasher, PromptChain
from engines.call_requests import Request
from engines.contract import Capabilities, Load
from engines.errors import PenstockError
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.prefix_chunks import unpack
from engines.requests import GenerateRequest, Session
from engines.simulated.options import StepTime

BLOCK = 512
"""Tokens of one block of a trace."""
MODEL = "m"


@dataclass(slots=True, eq=False)
class Call:
    """One request of a trace, and what became of it.

    Attributes:
        blocks: Its prompt's, by their ids: equal ids are equal prefixes.
        session: What it is known by as one of a conversation.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: Sequence[int]
    session: int
    first_s: float = math.nan
    done_s: float = math.nan
    cached_tokens: int = 0
    instance: int = -1


class CallRequestOf(GenerateRequest):
    """A request that knows which of a trace it is."""

    call: object = None


@dataclass(slots=True, eq=False)
class _Sent:
    """A request on an engine."""

    call: Call
    router: "Router"
    member: int
    tokens: int  # As its router reckoned.
    prefixes: bytes
    sink: "_Emit"
    left: int = 0
    is_placed: bool = False


_Emit = Callable[[Event], None]
_Said = Event | tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class _Change:
    """What an engine says of its cache."""

    engine: int
    number: int
    cached: dict[int, int]  # Each block with the tokens that end with it.
    evicted: list[int]


class Engine:
    """One engine: a step computes waiting prompts in pieces, and a token for each sequence that has its prompt."""

    def __init__(self, fleet: "CachedFleet", number: int, time: StepTime, blocks: int) -> None:
        self.number = number
        self.changes = 0
        self.is_dead = False
        self.now_s = 0.0
        self.busy_s = 0.0
        self.inbox: deque[tuple[float, _Sent]] = deque()
        self.waiting: deque[_Sent] = deque()
        self.running: list[_Sent] = []
        self.meter = PrefillMeter(lambda: self.now_s)
        self._fleet = fleet
        self._time = time
        self._most = blocks
        self._cache: OrderedDict[int, int] = OrderedDict()  # Each block with the tokens that end with it.
        self._prefixes = SentPrefixes(blocks * BLOCK)
        self._context = 0
        self._pending: tuple[float, list[_Sent], bool] | None = None
        self._load: tuple[tuple[int, ...], Load] = ((), Load())

    def load(self) -> Load:
        """What its frames say."""
        meter = self.meter
        known = (len(self.running), len(self.waiting), meter.waiting_tokens, meter.written_tokens)
        if known != self._load[0]:
            running, queued, tokens, written = known
            self._load = known, Load(running, queued, 0.0, 0.0, (), tokens, meter.rate, written)
        return self._load[1]

    @property
    def kv_use(self) -> float:
        return self._context / (self._most * BLOCK)

    def all_prefixes(self) -> tuple[list[int], list[int]]:
        """What a router hears that comes anew."""
        prefixes, stamps = self._prefixes.all()
        return unpack(prefixes), unpack(stamps)

    def clear(self) -> None:
        """Its cache is lost."""
        evicted = list(self._cache)
        self._cache.clear()
        self._change({}, evicted)

    def cached(self) -> dict[int, int]:
        """What its cache holds of prompts."""
        return {block: tokens for block, tokens in self._cache.items() if block >= 0}

    def die(self) -> list[_Sent]:
        """It is gone; what it had to do."""
        self.is_dead = True
        lost = [*(sent for _, sent in self.inbox), *self.waiting, *self.running]
        self.inbox.clear()
        self.waiting.clear()
        self.running.clear()
        self._pending = None
        return lost

    def _change(self, cached: dict[int, int], evicted: list[int]) -> None:
        if self._fleet.is_exact and (cached or evicted):
            self.changes += 1
            self._fleet.tell_all(self.now_s, _Change(self.number, self.changes, cached, evicted))

    def run(self, until_s: float) -> None:
        """Takes the steps that end by then."""
        while True:
            if self._pending is not None:
                if self._pending[0] > until_s:
                    return
                self._end_step()
                continue
            self._take_in()
            if not (self.waiting or self.running):
                if not self.inbox or self.inbox[0][0] > until_s:
                    return
                self.now_s = self.inbox[0][0]
                continue
            if not self.waiting and self._decode(until_s):
                continue
            self._begin_step()

    def _take_in(self) -> None:
        while self.inbox and self.inbox[0][0] <= self.now_s:
            sent = self.inbox.popleft()[1]
            self.meter.enter(sent.tokens)
            self.waiting.append(sent)
            if sent.prefixes:
                written = self.meter.written_tokens
                if not self._fleet.is_exact:
                    self._prefixes.add(sent.prefixes, written)
                self._fleet.tell(self.now_s, sent, (sent.prefixes, written))

    def _decode(self, until_s: float) -> bool:
        """Many steps at once, in which nothing begins or ends; false where there is none."""
        bound_s = min(until_s, self.inbox[0][0] if self.inbox else math.inf)
        sequences, time = len(self.running), self._time
        step_s = time.base_s + time.decode_sequence_s * sequences + time.context_token_s * self._context
        steps = min(int((bound_s - self.now_s) / step_s), min(sent.left for sent in self.running))
        if steps < 1:
            return False
        self._pass(steps, steps * (step_s + time.context_token_s * sequences * (steps - 1) / 2))
        self._count(steps)
        return True

    def _begin_step(self) -> None:
        time, sequences = self._time, len(self.running)
        budget, prefill, done = 2048 - sequences, 0, list[_Sent]()
        for sent in self.waiting:
            if budget <= 0 or sequences + len(done) >= 256:
                break
            if not sent.is_placed:
                self._place(sent)
            piece = min(budget, sent.left)
            sent.left -= piece
            budget -= piece
            prefill += piece
            if sent.left:
                break
            done.append(sent)
        step_s = (
            time.base_s
            + time.prefill_token_s * prefill
            + time.decode_sequence_s * sequences
            + time.context_token_s * self._context
        )
        self._pending = self.now_s + step_s, done, bool(sequences)

    def _end_step(self) -> None:
        assert self._pending is not None
        end_s, done, decodes = self._pending
        self._pending = None
        self._pass(1, end_s - self.now_s)
        if decodes:
            self._count(1)
        for sent in done:
            self.waiting.popleft()
            self._first(sent)

    def _pass(self, steps: int, seconds: float) -> None:
        self.now_s += seconds
        self.busy_s += seconds

    def _place(self, sent: _Sent) -> None:
        call, cache = sent.call, self._cache
        known = 0
        for block in call.blocks:
            if block not in cache:
                break
            known += 1
        call.cached_tokens = min(known * BLOCK, call.prompt_tokens - 1)
        sent.left = call.prompt_tokens - call.cached_tokens
        sent.is_placed = True

    def _use(self, blocks: Sequence[int]) -> None:
        cache = self._cache
        # Answers, which no prompt begins with, have negative numbers.
        cached = {block: BLOCK * (place + 1) for place, block in enumerate(blocks) if block >= 0 and block not in cache}
        for place in range(len(blocks) - 1, -1, -1):
            cache[blocks[place]] = BLOCK * (place + 1)
            cache.move_to_end(blocks[place])
        evicted = []
        while len(cache) > self._most:
            evicted.append(cache.popitem(last=False)[0])
        self._change(cached, [block for block in evicted if block >= 0])

    def _first(self, sent: _Sent) -> None:
        call = sent.call
        call.first_s = self.now_s
        self.meter.begin(sent.tokens)
        self._use(call.blocks)
        self._fleet.tell(self.now_s, sent, TextDelta("x"))
        sent.left = call.output_tokens - 1
        if sent.left < 1:
            self._finish(sent)
            return
        self._context += call.prompt_tokens + 1
        self.running.append(sent)

    def _count(self, steps: int) -> None:
        self._context += len(self.running) * steps
        ended = False
        for sent in self.running:
            sent.left -= steps
            if sent.left <= 0:
                ended = True
                self._context -= sent.call.prompt_tokens + sent.call.output_tokens
                self._finish(sent)
        if ended:
            self.running = [sent for sent in self.running if sent.left > 0]

    def _finish(self, sent: _Sent) -> None:
        call = sent.call
        call.done_s = self.now_s
        usage = Usage(call.prompt_tokens, call.output_tokens, call.cached_tokens)
        self.meter.finish(usage)
        answer = [next(self._fleet.unique) for _ in range(call.output_tokens // BLOCK)]
        self._use([*call.blocks, *answer])
        self._fleet.tell(self.now_s, sent, Finished(("length",), usage, str(self.number)))


class _Egress:
    """A router's way to an engine: what it has heard so far, and what it has sent."""

    def __init__(self) -> None:
        self.reported = Load()
        self.in_flight = 0
        self.waiting_tokens = 0
        self.kv_use = 0.0
        self.is_draining = self.is_stalled = False
        self.ready = True
        self.heard_s = self.spoke_s = 0.0


class TraceHasher(ChainHasher):
    """Chains of a trace's blocks."""

    def __init__(self) -> None:
        super().__init__(MODEL, bytes)

    def tokens(self, request: Request) -> int:
        return _call(request).prompt_tokens

    def chain(self, request: Request) -> PromptChain:
        call = _call(request)
        ends = [min(BLOCK * (place + 1), call.prompt_tokens) for place in range(len(call.blocks))]
        return PromptChain(list(call.blocks), ends, call.prompt_tokens, is_text=False)


def _call(request: Request) -> Call:
    call = request.call  # type: ignore[union-attr]
    assert isinstance(call, Call)
    return call


class _Sink:
    def emit(self, event: Event) -> None:
        return None

    def fail(self, error: PenstockError) -> None:
        return None


@dataclass(slots=True)
class Rule:
    """A way to pick instances: settings, and what is not of the product.

    Attributes:
        placements: Makes those of a router; None: the product's.
        sticky: Whether requests have their sessions.
        exact: Whether engines say what they have cached.
    """

    name: str
    settings: RoutingSettings
    placements: Callable[[], Placements] | None = None
    sticky: bool = False
    exact: bool = False


class Router:
    """One router replica."""

    def __init__(self, fleet: "CachedFleet", rule: Rule) -> None:
        self._fleet = fleet
        self._rule = rule
        self.members: list[Member] = []
        made = (
            rule.placements()
            if rule.placements
            else Placements(MODEL, rule.settings.policy, hasher=TraceHasher(), clock=lambda: fleet.now_s)
        )
        self.picker = InstancePicker(MODEL, rule.settings, self._present, lambda: fleet.now_s, made)

    def _present(self) -> list[Member]:
        while len(self.members) < len(self._fleet.engines):
            number = len(self.members)
            capabilities = Capabilities(
                cache_tokens=self._fleet.cache_blocks * BLOCK, reports_cache=self._fleet.is_exact
            )
            member = Member(Instance(str(number), MODEL, state=InstanceState.READY, capabilities=capabilities))
            member.egress = _Egress()  # type: ignore[assignment]
            self.members.append(member)
            if self._fleet.is_exact:
                engine = self._fleet.engines[number]
                self.picker.placements.prefixes.hear_cached(str(number), 0, engine.changes, engine.cached())
        return self.members

    def send(self, call: Call) -> None:
        """Picks an engine for a request, and sends it there."""
        fleet = self._fleet
        for member, engine in zip(self._present(), fleet.engines, strict=True):
            egress = member.egress
            if isinstance(egress, _Egress):
                egress.reported = engine.load()
                egress.kv_use = engine.kv_use
        session = Session(id=str(call.session)) if self._rule.sticky else None
        request = CallRequestOf.model_construct(model=MODEL, prompt="", session=session, call=call)
        member = self.picker.choose(request, ())
        assert member is not None
        egress = member.egress
        assert isinstance(egress, _Egress)
        placement = self.picker.place(request, member)
        tokens, sink = call.prompt_tokens, _Sink()
        if placement is not None:
            tokens, sink = placement.tokens, placement.heard(sink)  # type: ignore[assignment]
        if session is not None:
            self.picker.affinity.lease(session.id, member.id).release()
        sink.emit(Started(member.id, MODEL, call.prompt_tokens))
        egress.in_flight += 1
        egress.waiting_tokens += tokens
        call.instance = int(member.id)
        prefixes = placement.prefixes.prefixes if placement is not None and placement.prefixes is not None else b""
        sent = _Sent(call, self, call.instance, tokens, prefixes, sink.emit)
        fleet.engines[call.instance].inbox.append((fleet.now_s + fleet.wire_s, sent))

    def hear(self, sent: _Sent, event: Event) -> None:
        """Something came back."""
        egress = self.members[sent.member].egress
        if not isinstance(egress, _Egress):
            return
        if event.__class__ is Finished:
            egress.in_flight -= 1
        else:
            egress.waiting_tokens -= sent.tokens
        sent.sink(event)


@dataclass(slots=True)
class Outcome:
    """What a run was like; times in seconds, sorted."""

    ttft_s: list[float]
    total_s: list[float]
    cached_share: float
    busy: float
    spread: float
    predicted_share: float = field(default=math.nan)
    calls: Sequence[Call] = ()

    def ttft_at(self, quantile: float) -> float:
        return _at(self.ttft_s, quantile)

    def total_at(self, quantile: float) -> float:
        return _at(self.total_s, quantile)


def _at(values: Sequence[float], quantile: float) -> float:
    return values[min(len(values) - 1, int(quantile * len(values)))]


class CachedFleet:
    """Engines of one model, and the routers before them.

    Args:
        rule: How an engine is picked.
        cache_blocks: How many blocks the cache of one engine holds.
        engines: How many there are.
        routers: Likewise; requests come to them in turn.
        wire_s: What a request, or a frame, takes on its way.
        happens: Called before each request, with the fleet and the time.
    """

    def __init__(
        self,
        rule: Rule,
        cache_blocks: int,
        engines: int = 8,
        routers: int = 1,
        wire_s: float = 0.005,
        happens: Callable[["CachedFleet", float], None] = lambda fleet, now_s: None,
    ) -> None:
        self.cache_blocks = cache_blocks
        self.is_exact = rule.exact
        self.wire_s = wire_s
        self.now_s = 0.0
        self.unique = count(-1, -1)
        self.engines = [Engine(self, number, StepTime(), cache_blocks) for number in range(engines)]
        self.routers = [Router(self, rule) for _ in range(routers)]
        self._rule = rule
        self._happens = happens
        self._told: list[tuple[float, int, _Sent | None, _Said | _Change]] = []
        self._order = count()

    def tell(self, at_s: float, sent: _Sent, said: "_Said") -> None:
        """An engine says something of a request; its prefixes to all routers but the one that sent it."""
        heapq.heappush(self._told, (at_s, next(self._order), sent, said))

    def tell_all(self, at_s: float, change: _Change) -> None:
        """An engine says to all routers what has changed in its cache."""
        heapq.heappush(self._told, (at_s, next(self._order), None, change))

    def kill_engine(self, number: int) -> None:
        """One is lost; what it had to do goes on elsewhere, from its beginning."""
        lost = self.engines[number].die()
        for router in self.routers:
            router.members[number].egress = None
        for sent in lost:
            sent.router.send(sent.call)

    def add_engine(self) -> None:
        """One more, with an empty cache."""
        engine = Engine(self, len(self.engines), StepTime(), self.cache_blocks)
        engine.now_s = self.now_s
        self.engines.append(engine)

    def restart_router(self, number: int) -> None:
        """A router is replaced by one that knows nothing."""
        router = self.routers[number] = Router(self, self._rule)
        if self.is_exact:
            return  # It hears of all that is cached when it first looks.
        for engine in self.engines:
            router.picker.placements.prefixes.hear_all(str(engine.number), 0, *engine.all_prefixes())

    def run(self, calls: Sequence[Call]) -> Outcome:
        """Serves a trace, whose requests are sorted by time."""
        for position, call in enumerate(calls):
            self._advance(call.at_s)
            self._happens(self, call.at_s)
            self.routers[position % len(self.routers)].send(call)
        while any(engine.inbox or engine.waiting or engine.running for engine in self.engines):
            self._advance(self.now_s + 1.0)
        lost = [call for call in calls if math.isnan(call.done_s)]
        assert not lost, f"{len(lost)} requests were lost"
        length_s = calls[-1].at_s - calls[0].at_s
        tokens = [0] * len(self.engines)
        for call in calls:
            tokens[call.instance] += call.prompt_tokens - call.cached_tokens + call.output_tokens
        prefixes = [router.picker.placements.prefixes for router in self.routers]
        cached = sum(one.cached_tokens for one in prefixes)
        return Outcome(
            ttft_s=sorted(call.first_s + self.wire_s - call.at_s for call in calls),
            total_s=sorted(call.done_s + self.wire_s - call.at_s for call in calls),
            cached_share=sum(call.cached_tokens for call in calls) / sum(call.prompt_tokens for call in calls),
            busy=sum(engine.busy_s for engine in self.engines) / len(self.engines) / length_s,
            spread=max(tokens) * len(tokens) / sum(tokens),
            predicted_share=sum(one.predicted_tokens for one in prefixes) / cached if cached else math.nan,
            calls=calls,
        )

    def _advance(self, now_s: float) -> None:
        """Lets the time be `now_s`; the routers know of the engines as of a wire ago."""
        self.now_s = now_s
        heard_s = now_s - self.wire_s
        for engine in self.engines:
            if not engine.is_dead:
                engine.run(heard_s)
        told = self._told
        while told and told[0][0] <= heard_s:
            _, _, sent, said = heapq.heappop(told)
            if isinstance(said, _Change):
                for router in self.routers:
                    if said.engine < len(router.members):
                        router.picker.placements.prefixes.hear_change(
                            str(said.engine), 0, said.number, said.cached, said.evicted
                        )
                continue
            assert sent is not None
            if not isinstance(said, tuple):
                sent.router.hear(sent, said)
                continue
            prefixes, written = said
            for router in self.routers:
                if router is not sent.router:
                    router.picker.placements.prefixes.hear(str(sent.member), 0, unpack(prefixes), written)
