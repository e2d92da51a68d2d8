"""An engine that plays a script: the fake for tests, part of the product. See `engines.scripted.script`."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain

from pydantic import Field

from engines.attachments.beside import check_kinds
from engines.call_requests import DetokenizeRequest, Embeddings, EmbedRequest, Tokenized, TokenizeRequest
from engines.context import Context, Unsubscribe
from engines.contract import Answers, Capabilities, Load, Progress, PushEngine, unsupported
from engines.errors import Cancelled, EngineDead, EngineFailed, InstanceLost, NotReady, PenstockError
from engines.events import Delta, Event, Finished, FinishReason, ReasoningDelta, Started, TextDelta, Usage
from engines.options import EngineOptions
from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
from engines.registry import EngineSpec
from engines.requests import GenerateRequest
from engines.scripted.script import (
    Atom,
    Echo,
    Fail,
    FileItem,
    Handler,
    Hang,
    HangEngine,
    Hold,
    KillProcess,
    Queue,
    Script,
    Work,
    atoms,
    last_text,
    prompt_text,
    text_of,
)
from engines.simulated.embedding import embeddings
from engines.simulated.pooling import check_pooled, pooled
from engines.simulated.scoring import scores
from engines.sink import Sink

CONTEXT_LENGTH = 2**20
DEFAULT_CAPABILITIES = Capabilities(
    embed=True,
    score=True,
    pooling=True,
    tokenize=True,
    tools=True,
    reasoning=True,
    resume=True,
    context_length=CONTEXT_LENGTH,
)


class ScriptedOptions(EngineOptions):
    """Options of a scripted engine in a fleet file.

    Attributes:
        script: What it answers to every request.
        boot_s: What booting takes.
        boot_error: What booting ends with instead.
        follower_error: What a follower on a further node ends with; None: it waits for the end of its process.
        embedding_size: Length of its embeddings.
        attachments: Whether it takes attachments, of every kind; an echo names their types and digests.
    """

    script: list[FileItem] = [Echo()]
    boot_s: float = Field(0.0, ge=0)
    boot_error: Fail | None = None
    follower_error: Fail | None = None
    embedding_size: int = Field(8, ge=1)
    attachments: bool = False


@dataclass(eq=False, slots=True)
class Play:
    """One request that the engine saw.

    Attributes:
        request: The request.
        context: Its context.
        emitted: What was emitted.
        outcome: The terminal: Finished or an error; None while it is active.
    """

    request: GenerateRequest
    context: Context
    emitted: list[Event] = field(default_factory=list)
    outcome: Finished | PenstockError | None = None


class ScriptedEngine(PushEngine):
    """Plays a script to every request.

    A resumed request skips what it has lived through: what was said, and the error that ended it there.

    Attributes:
        plays: The latest requests that it saw, in order of arrival; at most 1,000.
    """

    def __init__(
        self,
        name: str,
        spec: EngineSpec | None = None,
        options: ScriptedOptions | None = None,
        *,
        script: Script | Handler | None = None,
        capabilities: Capabilities = DEFAULT_CAPABILITIES,
    ) -> None:
        """Makes an engine that is not started.

        Args:
            name: Its name.
            spec: What the registry makes it from; gives the model's name. None: the name that a request asks for.
            options: The script and more, as a fleet file gives them.
            script: A script, or a function from the request to a script, instead of the options' one.
            capabilities: What it says that it can do.
        """
        self.name = name
        self.capabilities = capabilities
        self.plays: deque[Play] = deque(maxlen=1000)
        self._model = spec.model if spec is not None else None
        self._options = options if options is not None else ScriptedOptions()
        if self._options.attachments:
            self.capabilities = replace(self.capabilities, vision=True, audio=True, documents=True)
        chosen = script if script is not None else self._options.script
        if callable(chosen):
            self._handler: Handler = chosen
        else:
            items = tuple(chosen)
            self._handler = lambda _: items
        self._players: dict[Play, _Player] = {}
        self._steps = 0
        self._ready = False
        self._dead: EngineDead | None = None
        self._hangs = False

    @property
    def requests(self) -> list[GenerateRequest]:
        """The latest requests that it saw, in order of arrival."""
        return [play.request for play in self.plays]

    @property
    def active(self) -> list[Play]:
        """The requests that hold a slot now, in order of arrival."""
        return list(self._players)

    @property
    def ready(self) -> bool:
        """Whether it has booted, and has neither died nor been stopped."""
        return self._ready

    @property
    def steps(self) -> int:
        """Items that were performed; one that hangs is not."""
        return self._steps

    def progress(self, context: Context) -> Progress | None:
        """How far the stream of this context is: a character is a token."""
        return next((player.progress for play, player in self._players.items() if play.context is context), None)

    async def start(self) -> None:
        """Boots; returns when ready. Raises a PenstockError where it cannot."""
        if self._options.boot_s:
            await asyncio.sleep(self._options.boot_s)
        if self._options.boot_error is not None:
            raise self._options.boot_error.build()
        self._ready = True

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Stops at once; what is active ends with InstanceLost."""
        self._ready = False
        for player in list(self._players.values()):
            player.fail(InstanceLost(f"The engine {self.name} was stopped.", instance=self.name))

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises a PenstockError before that."""
        self._must_be_ready()
        check_kinds(request.messages, self.capabilities)
        play = Play(request, context)
        self.plays.append(play)
        try:
            items = iter(self._handler(request))
            first = next(items, None)
            if isinstance(first, Hold):
                await self._hold(context, first.hold_s)
                self._must_be_ready()
                first = next(items, None)
            while isinstance(first, (KillProcess, HangEngine)):
                if first.strikes(request):
                    self.harm(first)
                first = next(items, None)
            if self._hangs:
                await context.killed()
            if isinstance(first, (Fail, PenstockError)) and request.resume is None:
                raise first.build() if isinstance(first, Fail) else copy(first)
            if context.is_killed:
                raise _killed(context)
        except PenstockError as error:
            play.outcome = error.at(self.name)
            self.take_note(error)
            raise
        except asyncio.CancelledError:
            play.outcome = _killed(context)
            raise
        script = items if first is None else chain((first,), items)
        player = _Player(self, play, sink, atoms(script, request), request.adapter or self._model or request.model)
        self._players[play] = player
        player.begin()

    @property
    def answers(self) -> Answers:
        """Vectors, scores, token ids, and their text."""
        return {
            EmbedRequest: self._embed,
            ScoreRequest: self._score,
            PoolingRequest: self._pooling,
            TokenizeRequest: self._tokenize,
            DetokenizeRequest: self._detokenize,
        }

    async def _embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        self._must_be_ready()
        if not self.capabilities.embed:
            raise unsupported(request)
        inputs = _ids(request.inputs)
        size = request.dimensions or self._options.embedding_size
        return Embeddings(
            vectors=await embeddings(inputs, size),
            dimension=size,
            prompt_tokens=sum(map(len, inputs)),
            engine=self.name,
        )

    async def _score(self, request: ScoreRequest, context: Context) -> Scores:
        self._must_be_ready()
        if not self.capabilities.score:
            raise unsupported(request)
        pairs = list(request.pairs)
        return Scores(
            values=await scores(pairs, request.use_activation),
            prompt_tokens=sum(len(query) + len(document) for query, document in pairs),
            engine=self.name,
        )

    async def _pooling(self, request: PoolingRequest, context: Context) -> Pooled:
        self._must_be_ready()
        if not self.capabilities.pooling:
            raise unsupported(request)
        inputs, size = _ids(request.inputs), self._options.embedding_size
        check_pooled(request, inputs, size)
        return await pooled(request, inputs, size, sum(map(len, inputs)), self.name)

    async def _tokenize(self, request: TokenizeRequest, context: Context) -> Tokenized:
        # A token is a character.
        self._must_be_ready()
        check_kinds(request.messages, self.capabilities)
        text = request.prompt if request.prompt is not None else last_text(request.messages or [])
        return Tokenized(
            token_ids=[ord(char) for char in text],
            context_length=self.capabilities.context_length,
            tokens=list(text) if request.return_tokens else None,
        )

    async def _detokenize(self, request: DetokenizeRequest, context: Context) -> str:
        self._must_be_ready()
        return text_of(request.token_ids, "token_ids")

    def load(self) -> Load:
        """How busy it is now."""
        return Load(running=len(self._players))

    async def check_health(self) -> None:
        """Returns when it can work. Raises NotReady while it boots, EngineDead when it is finished."""
        if self._dead is not None:
            raise self._dead
        await super().check_health()

    def stepped(self) -> None:
        """An item was performed."""
        self._steps += 1

    @property
    def hangs(self) -> bool:
        """Whether a script made it hang."""
        return self._hangs

    def harm(self, item: KillProcess | HangEngine) -> None:
        """What a script does to the engine itself."""
        if isinstance(item, KillProcess):
            os.kill(os.getpid(), signal.SIGKILL)
        self._hangs = True

    def ended(self, play: Play) -> None:
        """Frees the slot of a request that is over."""
        del self._players[play]

    def take_note(self, error: PenstockError) -> None:
        """What a request failed with: it may be the end of the engine, and of all the others."""
        if isinstance(error, EngineDead) and self._dead is None:
            self._dead = error
            self._ready = False
            for player in list(self._players.values()):
                player.fail(error)

    def _must_be_ready(self) -> None:
        if self._dead is not None:
            raise self._dead
        if not self._ready:
            raise NotReady(f"The engine {self.name} is not ready.", instance=self.name)

    async def _hold(self, context: Context, hold_s: float) -> None:
        try:
            async with asyncio.timeout(hold_s):
                await context.stopped()
        except TimeoutError:
            return


class _Player:
    """Plays one script into one sink, by callbacks of the event loop: cancelling takes effect at once."""

    __slots__ = (
        "_atoms",
        "_engine",
        "_is_queued",
        "_loop",
        "_model",
        "_play",
        "_replay",
        "_sink",
        "_timer",
        "_unsubscribe",
        "_usage",
        "_worked",
    )

    def __init__(self, engine: ScriptedEngine, play: Play, sink: Sink, atoms: Iterator[Atom], model: str) -> None:
        self._engine = engine
        self._play = play
        self._sink = sink
        self._atoms = atoms
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._unsubscribe: Unsubscribe | None = None
        self._is_queued = False
        self._worked = 0
        # Of each choice, what was said before; None once anything new was.
        self._replay = None if play.request.resume is None else [deque(ids) for ids in play.request.generated]
        self._usage = Usage(prompt_tokens=len(prompt_text(play.request)))

    @property
    def progress(self) -> Progress:
        usage = self._usage
        tokens = (usage.prompt_tokens or 0) + usage.completion_tokens + self._worked
        return Progress(tokens, scheduled=not self._is_queued)

    def begin(self) -> None:
        engine = self._engine
        resumable = engine.capabilities.resume
        self._emit(Started(engine.name, self._model, self._usage.prompt_tokens, resumable=resumable))
        if self._play.outcome is None:
            self._timer = self._loop.call_soon(self._next)
            self._unsubscribe = self._play.context.on_stop(self._cancelled)

    def fail(self, error: PenstockError) -> None:
        if self._end(error):
            self._sink.fail(error)
            self._engine.take_note(error)

    def _next(self) -> None:
        if self._engine.hangs:
            return
        try:
            atom = next(self._atoms, None)
            pause_s = self._perform(atom)
        except PenstockError as error:
            self.fail(error)
            return
        except Exception as error:  # noqa: BLE001 - the sink's owner waits: it must hear of a script's bug, too
            self.fail(EngineFailed(f"The script of {self._engine.name} failed: {type(error).__name__}: {error}"))
            return
        if pause_s is not None:
            self._engine.stepped()
        if self._play.outcome is not None or pause_s is None:
            return
        self._timer = self._loop.call_later(pause_s, self._next) if pause_s else self._loop.call_soon(self._next)

    def _perform(self, atom: Atom | None) -> float | None:
        """Performs one atom. Returns the seconds to wait before the next, or None to wait for ever."""
        self._is_queued = False
        if self._replay is not None and (self._is_replaying() or isinstance(atom, PenstockError)):
            if atom is None or isinstance(atom, Finished):
                raise EngineFailed("The resumed request has more tokens than the script.")
            if isinstance(atom, Delta):
                rest = self._replayed(atom)
                if rest is not None:
                    if not self._is_replaying():
                        self._replay = None
                    self._say(rest)
            return 0.0
        self._replay = None
        match atom:
            case None:
                self._finish(self._finished("stop"))
            case float():
                return atom
            case Hang():
                return None
            case KillProcess() | HangEngine():
                self._engine.harm(atom)
            case Work():
                self._worked += 1
                return atom.every_s
            case Queue():
                self._is_queued = True
                return atom.queue_s
            case PenstockError():
                self.fail(atom)
            case Finished():
                self._finish(replace(atom, engine=atom.engine or self._engine.name))
            case Started():
                pass  # It was emitted when the request was accepted; here it only marks that point.
            case _:
                self._say(atom)
        return 0.0

    def _is_replaying(self) -> bool:
        return self._replay is not None and any(self._replay)

    def _replayed(self, delta: Delta) -> Delta | None:
        """Takes off the replay what the delta says again. Returns what it says beyond that."""
        assert self._replay is not None
        said = self._replay[delta.index]
        if not said:
            return delta  # Its choice goes on, while another is still behind.
        ids = getattr(delta, "token_ids", ())
        again = min(len(ids), len(said))
        for position in range(again):
            if said.popleft() != ids[position]:
                raise EngineFailed("The resumed request has other tokens than the script.")
        self._count(delta, again)
        if again == len(ids):
            return None
        if not isinstance(delta, (TextDelta, ReasoningDelta)) or len(delta.text) != len(ids):
            raise EngineFailed("The resumed request ends inside an event that cannot be divided.")
        return replace(delta, text=delta.text[again:], token_ids=ids[again:])

    def _say(self, delta: Delta) -> None:
        self._count(delta, len(getattr(delta, "token_ids", ())))
        self._emit(delta)

    def _count(self, delta: Delta, tokens: int) -> None:
        usage = self._usage
        self._usage = replace(
            usage,
            completion_tokens=usage.completion_tokens + tokens,
            reasoning_tokens=usage.reasoning_tokens + (tokens if isinstance(delta, ReasoningDelta) else 0),
        )

    def _emit(self, event: Event) -> None:
        self._play.emitted.append(event)
        self._sink.emit(event)

    def _cancelled(self, context: Context) -> None:
        if context.is_killed:
            self.fail(_killed(context).at(self._engine.name))
        else:
            self._finish(self._finished("cancelled"))

    def _finished(self, reason: FinishReason) -> Finished:
        return Finished((reason,) * self._play.request.sampling.n, self._usage, self._engine.name)

    def _finish(self, event: Finished) -> None:
        if self._end(event):
            self._emit(event)

    def _end(self, outcome: Finished | PenstockError) -> bool:
        if self._play.outcome is not None:
            return False
        self._play.outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._engine.ended(self._play)
        return True


def _ids(inputs: Iterable[str | list[int]]) -> list[list[int]]:
    """The token ids of inputs: a token is a character."""
    return [[ord(char) for char in item] if isinstance(item, str) else item for item in inputs]


def _killed(context: Context) -> Cancelled:
    return Cancelled(f"The request {context.id} was killed.")
