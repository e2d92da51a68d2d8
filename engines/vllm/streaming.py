"""The way of the tokens: vLLM's outputs become events at the moment they exist.

vLLM's output handler calls `put` of each request's collector, once per engine step. A `VllmStream` takes the place of
the collector: its `put` turns the output into events and hands them to the sink, so there is no task, queue or wake-up
per token between the engine's socket and the outbox.
"""

from collections.abc import Callable, Sequence

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from engines.context import Context, Unsubscribe
from engines.contract import Progress
from engines.errors import Cancelled, EngineFailed, InvalidRequest, PenstockError
from engines.events import Event, Finished, FinishReason, Started, TextDelta, TokenLogprob, Usage
from engines.sink import Sink
from engines.vllm.failures import failure
from engines.vllm.slots import RequestSlots

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "cancelled",
    "repetition": "stop",
}
_LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON cannot say; as in vLLM's API."""

Emit = Callable[[Event], None]


class VllmChoice:
    """One choice of a request under way, without parsers: its text is its answer.

    Attributes:
        index: Which choice.
        tokens: Tokens generated so far.
        reason: Why it ended, once it has.
        stop_reason: The stop string or token id that ended it.
        reasoning_tokens: Tokens generated inside reasoning; known at the end.
        held_by: The field of the request that its text is held to; empty: it is free.
    """

    __slots__ = (
        "_logprobs",
        "_pending",
        "_top",
        "held_by",
        "index",
        "reason",
        "reasoning_tokens",
        "stop_reason",
        "tokens",
    )

    def __init__(self, index: int, top_logprobs: int | None) -> None:
        self.index = index
        self.tokens = 0
        self.reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.reasoning_tokens = 0
        self.held_by = ""
        self._top = top_logprobs
        # Of tokens that said nothing yet: they travel with the next event.
        self._pending: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    def take(self, output: CompletionOutput, emit: Emit) -> None:
        """Emits what the output says."""
        ids = output.token_ids
        self.tokens += len(ids)
        text = output.text
        if self._top is None and text and not self._pending:
            emit(TextDelta(text, self.index, tuple(ids)))
        else:
            self._pending.extend(ids)
            if self._top is not None:
                self._add_logprobs(output)
            if text:
                emit(TextDelta(text, self.index, self._claim(), self._claim_logprobs()))
        if output.finish_reason is not None:
            self._end(output.finish_reason, output.stop_reason, emit)

    def forget_pending(self) -> None:
        """Takes the tokens that have not travelled yet as known to the receiver."""
        self._pending.clear()
        self._logprobs.clear()

    def _end(self, reason: str, stop_reason: int | str | None, emit: Emit) -> None:
        if reason == "error":
            if self.held_by:
                # Not the engine's failure: a schema that refers to nothing but itself fits no text at all.
                raise InvalidRequest("The output came to where nothing fits what it is held to.", param=self.held_by)
            raise EngineFailed("The engine failed on this request.")
        if self._pending:
            # The last tokens, an end-of-sequence token usually, have nobody left to travel with.
            emit(TextDelta("", self.index, self._claim(), self._claim_logprobs()))
        self.reason = _REASONS[reason]
        self.stop_reason = stop_reason

    def _add_logprobs(self, output: CompletionOutput) -> None:
        assert self._top is not None
        self._logprobs.extend(_logprobs(output.token_ids, output.logprobs, self._top))

    def _claim(self) -> tuple[int, ...]:
        """The ids generated since the last event, for the next."""
        if not self._pending:
            return ()
        ids = tuple(self._pending)
        self._pending.clear()
        return ids

    def _claim_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        if self._top is None:
            return None
        logprobs = tuple(self._logprobs)
        self._logprobs.clear()
        return logprobs


class VllmStream:
    """One request under way: vLLM's collector on one side, a sink on the other.

    Until `start` is called, an error is kept in `setup_error` for whoever is submitting the request; from then on the
    sink hears of it.

    Attributes:
        request_id: Under which vLLM knows the request; set when it is registered.
        parts: The core's own requests for it, one for each choice that had not ended before; likewise.
        slots: Those of its choices; None: the request is for one.
        is_ended: Whether the terminal was emitted, or `setup_error` is set.
        setup_error: Why the request ended before it started.
        reported: How far it is, as its tokens or the core said last.
    """

    __slots__ = (
        "_abort",
        "_choices",
        "_context",
        "_engine",
        "_heard",
        "_is_killed",
        "_is_taking",
        "_prompt_tokens",
        "_release",
        "_sink",
        "_started",
        "_unsubscribe",
        "is_ended",
        "parts",
        "reported",
        "request_id",
        "setup_error",
        "slots",
    )

    def __init__(
        self,
        started: Started,
        choices: Sequence[VllmChoice],
        sink: Sink,
        context: Context,
        abort: Callable[[], None],
        release: Callable[["VllmStream"], None],
    ) -> None:
        """Makes the stream of a request that is about to be handed to the engine.

        Args:
            started: The first event, with the tokens of the prompt.
            choices: The choices, by index.
            sink: Takes the events.
            context: Its stop and kill end the stream.
            abort: Takes the request out of the engine soon; vLLM then puts what is left of it.
            release: Called once, at the end.
        """
        self.is_ended = False
        self.setup_error: PenstockError | None = None
        self.request_id = ""
        self.parts: Sequence[str] = ()
        self.slots: RequestSlots | None = None
        self._started: Started | None = started
        self._engine = started.engine
        self._prompt_tokens = started.prompt_tokens or 0
        self._choices = choices
        self._sink = sink
        self._context = context
        self._abort = abort
        self._release = release
        self._unsubscribe: list[Unsubscribe] = []
        self._is_taking = False
        self._is_killed = False
        self._heard = 0
        self.reported = Progress(0)

    @property
    def context(self) -> Context:
        """The request's."""
        return self._context

    def progress(self) -> Progress | None:
        """How far it is by the tokens that came since this was asked last; None when none came."""
        generated = sum(choice.tokens for choice in self._choices)
        if generated == self._heard:
            return None
        self._heard = generated
        # As the core counts: a token is computed when the next one is.
        tokens = sum(self._prompt_tokens + choice.tokens - 1 for choice in self._choices if choice.tokens)
        self.reported = Progress(tokens)
        return self.reported

    def watch(self) -> None:
        """Follows the context from now on; an already cancelled one ends the stream at once."""
        self._heard = sum(choice.tokens for choice in self._choices)
        for subscribe, callback in ((self._context.on_kill, self._kill), (self._context.on_stop, self._stop)):
            unsubscribe = subscribe(callback)
            if self.is_ended:
                unsubscribe()
                return
            self._unsubscribe.append(unsubscribe)

    def start(self) -> None:
        """Emits Started, unless an output came before and did."""
        started, self._started = self._started, None
        if started is not None:
            self._sink.emit(started)

    def put(self, output: RequestOutput | Exception) -> None:
        """Takes the next output, or the error that ends them. Called by vLLM, as of its own collectors."""
        if self.is_ended:
            return
        if isinstance(output, Exception):
            self.fail(failure(output))
            return
        try:
            self._take(output)
        except Exception as error:  # noqa: BLE001 - it would end vLLM's output handler, and every stream with it
            self._is_taking = False
            self.abandon(failure(error))

    def finish(self, cached_tokens: int = 0) -> None:
        """Emits Finished: every choice has ended."""
        choices = self._choices
        reasons = tuple(choice.reason or "cancelled" for choice in choices)
        if "cancelled" in reasons and not self._context.is_stopped:
            raise EngineFailed("The engine gave up on this request.")
        self._close()
        self._sink.emit(
            Finished(
                reasons,
                Usage(
                    prompt_tokens=self._prompt_tokens,
                    completion_tokens=sum(choice.tokens for choice in choices),
                    cached_tokens=min(cached_tokens, self._prompt_tokens),
                    reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
                ),
                self._engine,
                tuple(choice.stop_reason for choice in choices),
            )
        )

    def fail(self, error: PenstockError) -> None:
        """Ends the stream with an error, unless it has ended."""
        if self.is_ended:
            return
        self._close()
        if self._started is not None:
            self.setup_error = error
        else:
            self._sink.fail(error)

    def abandon(self, error: PenstockError) -> None:
        """Ends the stream with an error, and takes the request out of the engine."""
        self.fail(error)
        self._abort()

    def _take(self, output: RequestOutput) -> None:
        self._is_taking = True
        if self._started is not None:
            self.start()
        emit = self._sink.emit
        for completion in output.outputs:
            self._choices[completion.index].take(completion, emit)
            if self.slots is not None and completion.finish_reason is not None:
                self.slots.leave()
        self._is_taking = False
        if self._is_killed:
            self._kill(self._context)
        elif output.finished:
            self.finish(output.num_cached_tokens or 0)

    def _stop(self, _: Context) -> None:
        # What vLLM puts then ends the stream with what was produced.
        self._abort()

    def _kill(self, _: Context) -> None:
        if self._is_taking:
            # By the sink, from inside of an event: the terminal must not come before the rest of this output.
            self._is_killed = True
            return
        self.abandon(Cancelled("The request was cancelled."))

    def _close(self) -> None:
        self.is_ended = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe.clear()
        if self.slots is not None:
            self.slots.close()
        self._release(self)


def _logprobs(ids: Sequence[int], positions: Sequence[dict[int, Logprob]] | None, top: int) -> Sequence[TokenLogprob]:
    """The log probabilities of the tokens of an output, with so many alternatives each."""
    if positions is None:
        return ()
    found = []
    for token_id, position in zip(ids, positions, strict=True):
        drawn = position[token_id]
        best = sorted(position.items(), key=lambda item: -item[1].logprob)[:top] if top else ()
        found.append(
            _logprob(token_id, drawn, tuple(_logprob(other, logprob, ()) for other, logprob in best)),
        )
    return found


def _logprob(token_id: int, logprob: Logprob, top: tuple[TokenLogprob, ...]) -> TokenLogprob:
    token = logprob.decoded_token or ""
    return TokenLogprob(
        token=token,
        token_id=token_id,
        logprob=max(logprob.logprob, _LEAST_LOGPROB),
        utf8=token.encode("utf-8", errors="replace"),
        top=top,
    )
