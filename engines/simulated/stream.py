"""One request under way: its sink, and the choices that have not ended yet."""

from collections.abc import Callable

from engines.context import Context, Unsubscribe
from engines.contract import Progress
from engines.errors import Cancelled, PenstockError
from engines.events import Finished, Usage
from engines.simulated.scheduler import Scheduler, Sequence
from engines.sink import Sink


class SimulatedStream:
    """Joins the choices of a request into one stream, and ends it exactly once.

    Args:
        engine: Name of the engine.
        context: The request's context.
        sink: Where the events go.
        scheduler: What its sequences run in.
        ended: Called once, with the stream, when it is over.
    """

    __slots__ = ("_ended", "_engine", "_left", "_over", "_scheduler", "_sequences", "_unsubscribe", "context", "sink")

    def __init__(
        self,
        engine: str,
        context: Context,
        sink: Sink,
        scheduler: Scheduler,
        ended: "Callable[[SimulatedStream], None]",
    ) -> None:
        self.sink = sink
        self.context = context
        self._engine = engine
        self._scheduler = scheduler
        self._ended = ended
        self._sequences: list[Sequence] = []
        self._left = 0
        self._over = False
        self._unsubscribe: Unsubscribe | None = None

    def open(self, sequences: list[Sequence]) -> None:
        """Sets the sequences to work; those that a resumed request finds complete are only reported."""
        self._sequences = sequences
        self._left = len(sequences)
        for sequence in sequences:
            self._scheduler.add(sequence)
        for sequence in sequences:
            if sequence.output.reason is not None:
                self.choice_ended(sequence)
        if not self._over:
            self._unsubscribe = self.context.on_stop(self._cancel)

    def choice_ended(self, sequence: Sequence) -> None:
        """Frees a sequence that has said its last; the last of them ends the stream."""
        self._scheduler.remove(sequence)
        self._left -= 1
        if not self._left:
            self._finish()

    def progress(self) -> Progress:
        """How far it is: the tokens computed of all its choices, and whether any of them is in the engine's steps."""
        open_ = [sequence for sequence in self._sequences if not sequence.over]
        return Progress(
            sum(sequence.computed for sequence in self._sequences), any(sequence.blocks for sequence in open_)
        )

    def fail(self, error: PenstockError) -> None:
        """Ends the stream with an error."""
        if self._close():
            self.sink.fail(error)

    def _cancel(self, context: Context) -> None:
        if context.is_killed:
            self.fail(Cancelled(f"The request {context.id} was killed.", instance=self._engine))
            return
        for sequence in self._sequences:
            if not sequence.over:
                self._scheduler.remove(sequence)
                unsaid = sequence.output.unsaid()
                if unsaid is not None:
                    self.sink.emit(unsaid)
        self._finish()

    def _finish(self) -> None:
        sequences = self._sequences
        if not self._close():
            return
        outputs = [sequence.output for sequence in sequences]
        first = sequences[0]
        self.sink.emit(
            Finished(
                tuple(output.reason or "cancelled" for output in outputs),
                Usage(
                    prompt_tokens=first.prompt_tokens,
                    completion_tokens=sum(output.tokens for output in outputs),
                    cached_tokens=min(first.cached or 0, first.prompt_tokens),
                    reasoning_tokens=sum(output.reasoning_tokens for output in outputs),
                ),
                self._engine,
                tuple(output.stop_reason for output in outputs),
            )
        )

    def _close(self) -> bool:
        if self._over:
            return False
        self._over = True
        # They know the stream: a large request must not wait for the garbage collector.
        sequences, self._sequences = self._sequences, []
        for sequence in sequences:
            self._scheduler.remove(sequence)
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._ended(self)
        return True
