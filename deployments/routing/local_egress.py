"""The way to an instance that is an engine of this process."""

from actors.channel.frames import ALL_CHUNKS, CHUNKS, News
from actors.channel.listener import Listener
from engines.cached_chunks import CachedChunks
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.contract import Engine, Load
from engines.errors import NotReady, PenstockError
from engines.events import Event, Finished, Started
from engines.prefix_chunks import pack, pack_held
from engines.requests import GenerateRequest
from engines.sink import Sink


class LocalEgress:
    """An egress to an engine that somebody else starts and stops; what it has of an `InstanceEgress` is said there.

    Args:
        engine: The engine.
        listener: Hears what becomes of it.
    """

    def __init__(self, engine: Engine, listener: Listener) -> None:
        self.listener = listener
        self.in_flight = 0
        self.waiting_tokens = 0
        self.is_draining = False
        self.is_stalled = False
        self.heard_s = self.spoke_s = 0.0
        self.streams: set[CountedSink] = set()
        self._engine = engine
        self._is_open = False
        self._chunks: CachedChunks | None = None
        self._changes = 0

    @property
    def ready(self) -> bool:
        """Whether it is open, and the engine takes requests."""
        return self._is_open and self._engine.ready

    @property
    def reported(self) -> Load:
        """The engine's load."""
        return self._engine.load()

    async def start(self) -> None:
        """Opens it.

        Raises:
            NotReady: The engine does not work.
        """
        if not self._engine.ready:
            raise NotReady(f"The engine {self._engine.name} is not ready.")
        self._is_open = True
        self._chunks = self._engine.cached_chunks
        if self._chunks is not None:
            self._chunks.listen(self._hear_chunks)
            self.listener.heard(News(ALL_CHUNKS, (self._changes, *pack_held(self._chunks.all()))))

    def _hear_chunks(self, cached: dict[int, int], evicted: list[int]) -> None:
        self._changes += 1
        self.listener.heard(News(CHUNKS, (self._changes, *pack_held(cached), pack(evicted))))

    async def probe(self, timeout_s: float) -> None:
        """Returns when the engine can work; raises what its `check_health` raises."""
        await self._engine.check_health()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Closes it; what is under way ends with the engine."""
        self._is_open = False
        if self._chunks is not None:
            self._chunks.leave(self._hear_chunks)
            self._chunks = None

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        counted = CountedSink(self, sink, request.sampling.n, request.prefill_tokens or 0)
        try:
            await self._engine.submit(request, context, counted)
        except BaseException:
            counted.end()
            raise

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises a PenstockError where it cannot."""
        return await self._engine.call(request, context)


class CountedSink:
    """Passes a stream on, and counts it as in flight until it has ended.

    Args:
        egress: What carries it.
        sink: Who hears it.
        choices: What it counts for.
        tokens: Of its prompt, to be computed before its first token.
    """

    __slots__ = ("_choices", "_egress", "_sink", "_tokens")

    def __init__(self, egress: LocalEgress, sink: Sink, choices: int, tokens: int) -> None:
        self._egress: LocalEgress | None = egress
        self._sink = sink
        self._choices = choices
        self._tokens = tokens
        egress.in_flight += choices
        egress.waiting_tokens += tokens
        egress.streams.add(self)

    def emit(self, event: Event) -> None:
        """Takes the next event; nothing after the end."""
        if self._egress is not None:
            if event.__class__ is Finished:
                self.end()
            elif self._tokens and event.__class__ is not Started:
                self._begin(self._egress)
            self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream; nothing after the end."""
        if self._egress is not None:
            self.end()
            self._sink.fail(error)

    def end(self) -> None:
        """It is not in flight any more. Idempotent."""
        egress, self._egress = self._egress, None
        if egress is not None:
            egress.in_flight -= self._choices
            self._begin(egress)
            egress.streams.discard(self)

    def _begin(self, egress: LocalEgress) -> None:
        egress.waiting_tokens -= self._tokens
        self._tokens = 0
