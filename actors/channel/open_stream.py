"""One stream at the caller's end of a channel: its sink, who waits for it to start, and how far it is."""

import asyncio

from engines.context import Unsubscribe
from engines.errors import PenstockError
from engines.events import Event, Started
from engines.requests import GenerateRequest
from engines.sink import Sink

QUEUED_PULSES = 2
"""After so many heartbeats that say so a request waits in a queue, and is not about to leave it."""


class OpenStream:
    """One request under way.

    Args:
        sink: Takes its events.
        request: What was asked.
        accepted: Done when it has started, or was refused.
        came_late: Whether the engine took no step any more when it was sent.

    Attributes:
        accepted, came_late, sink: As given.
        request: As given, until its first token.
        tokens_at_start: What the engine computes before it generates anything, over all choices; None: unknown.
        weight: What it counts for in the load: its choices.
        waiting_tokens: Tokens to be computed before its first one.
        has_started: Whether it was accepted.
        progress: As the instance last said: tokens computed, and whether it is being worked on.
        queued_pulses: Heartbeats up to the last one that said that it is not being worked on.
        still_pulses: Heartbeats in which it did not advance.
        is_held_for_trial: Whether it is to be tried alone, and the instance has not said yet that it is.
        places: Messages of it that went up.
        unsubscribe_kill, unsubscribe_stop: End its following of its context.
    """

    __slots__ = (
        "accepted",
        "came_late",
        "has_started",
        "is_held_for_trial",
        "places",
        "progress",
        "queued_pulses",
        "request",
        "sink",
        "still_pulses",
        "tokens_at_start",
        "unsubscribe_kill",
        "unsubscribe_stop",
        "waiting_tokens",
        "weight",
    )

    def __init__(
        self, sink: Sink, request: GenerateRequest, accepted: asyncio.Future[None], *, came_late: bool
    ) -> None:
        self.sink = sink
        # Kept until its first token, hidden or not: whoever dies of a request dies of one that has got nothing yet.
        self.request: GenerateRequest | None = request
        self.tokens_at_start: int | None = None  # Of its prompt, and of what it goes on from.
        self.is_held_for_trial = request.alone
        self.came_late = came_late  # The engine took no step any more by then: no step of it held this one.
        self.weight = request.sampling.n
        self.waiting_tokens = request.prefill_tokens or 0
        self.accepted = accepted
        self.has_started = False
        self.progress: tuple[int, bool] | None = None
        self.queued_pulses = 0
        self.still_pulses = 0
        self.places = 0
        self.unsubscribe_stop: Unsubscribe = _nothing
        self.unsubscribe_kill: Unsubscribe = _nothing

    def suspect(self, *, has_hung: bool) -> GenerateRequest | None:
        """Its request, where the instance may have worked on it when it was lost, and it has got nothing from it.

        For an instance that could not say any more which ones waited.

        Args:
            has_hung: The instance took no step for long, so what it said last still held. Else it may have begun to
                work on what has only just come.
        """
        is_queued = self.queued_pulses >= (1 if has_hung else QUEUED_PULSES)
        return None if is_queued or (has_hung and self.came_late) else self.request

    def hear(self, progress: tuple[int, bool] | None) -> None:
        """A heartbeat tells how far it is, or nothing of it."""
        self.progress = progress
        self.queued_pulses = 0 if progress is None or progress[1] else self.queued_pulses + 1

    def start(self, started: Event) -> None:
        """It has started, with this event."""
        self.has_started = True
        if self.request is not None and isinstance(started, Started) and started.prompt_tokens is not None:
            prompts = self.request.sampling.n * started.prompt_tokens
            self.tokens_at_start = prompts + sum(map(len, self.request.generated))

    def fail(self, error: PenstockError) -> None:
        """Tells whoever waits for it, or its sink."""
        if self.has_started:
            self.sink.fail(error)
        elif not self.accepted.done():
            self.accepted.set_exception(error)


def _nothing() -> None:
    return None
