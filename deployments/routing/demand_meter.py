"""Counts what is asked of one model through this router replica, for whoever decides how many instances it has."""

import time
from collections import deque
from collections.abc import Callable

from deployments.prompt_size import most_prompt_tokens
from deployments.scaling.demand import BACKED_UP_S, Demand
from engines.call_requests import Request
from engines.errors import PenstockError
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.requests import GenerateRequest
from engines.sink import Sink

BYTES_PER_TOKEN = 4.0
"""Of a prompt, before any has told."""
_LATELY = 200.0
"""Requests over which what is learned of prompts is taken, about."""
LONG_PROMPT_TOKENS = 512
"""A shorter prompt tells the time of a step, and not how fast prompts are computed."""
_PROMPTS = 64
_FEW = 8
"""Fewer long prompts than that may all have waited for others."""


class Asked:
    """One request, from its arrival to its end."""

    __slots__ = ("_began_s", "_bytes", "_is_over", "due_s", "instance", "meter", "sent_s", "tokens")

    def __init__(self, meter: "DemandMeter", bytes: int, tokens: float) -> None:
        self.meter = meter
        self._bytes = bytes
        self._began_s = 0.0
        self._is_over = False
        self.tokens = tokens
        self.instance: str | None = None
        self.sent_s = self.due_s = 0.0

    def sent(self, instance: str, wake_s: float = 0.0) -> None:
        """It is on its way to an instance, or waits in its queue, or so long for it to wake."""
        self.instance = instance
        self.sent_s = self.meter.clock()
        self.due_s = self.sent_s + wake_s

    def came_back(self) -> None:
        """No instance has it after all."""
        self.instance = None

    def says(self, prompt_tokens: int) -> None:
        """The engine says how long its prompt is."""
        self.meter.learn_length(self._bytes, prompt_tokens)
        self.tokens = prompt_tokens

    def began(self) -> None:
        """Its answer has begun; later calls change nothing."""
        if not self._began_s and not self._is_over:
            self._began_s = self.meter.clock()
            self.meter.begin(self)

    def finished(self, usage: Usage, counted: int) -> None:
        """It came to its end, having generated more tokens than were counted, or not."""
        self.began()
        self.meter.output_tokens += max(0, usage.completion_tokens - counted)
        self.meter.learn_cached(usage)
        computed = usage.prompt_tokens - usage.cached_tokens
        if computed >= LONG_PROMPT_TOKENS and self.sent_s and self._began_s > self.sent_s:
            self.meter.prompts.append(computed / (self._began_s - self.sent_s))
        self.over(max(usage.completion_tokens, counted))

    def over(self, tokens: int = 0) -> None:
        """It has ended, well or not, after so many generated tokens; later calls change nothing."""
        if not self._is_over:
            self._is_over = True
            self.meter.end(self, tokens, has_begun=bool(self._began_s))


class DemandMeter:
    """What is asked of one model.

    Args:
        clock: Monotonic time in seconds.

    Attributes:
        clock: As given.
        output_tokens: Tokens generated so far.
        prompts: Of the last long prompts, tokens computed over the time to their first token.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.output_tokens = 0
        self.prompts: deque[float] = deque(maxlen=_PROMPTS)
        # In the order in which they came.
        self._waiting: dict[Asked, None] = {}
        self._running = 0
        self._arrived = 0
        self._finished = 0
        self._finished_tokens = 0
        self._arrived_tokens = 0.0
        self._prefilled_tokens = 0.0
        self._skipped_tokens = 0.0
        self._bytes_per_token = BYTES_PER_TOKEN
        self._cached = 0.0

    def arrive(self, request: Request) -> Asked:
        """A request came in."""
        if isinstance(request, GenerateRequest):
            size = most_prompt_tokens(request)
            tokens = float(size) if request.prompt_token_ids is not None else size / self._bytes_per_token
        else:
            size = request.size if request.runs_model else 0
            tokens = size / self._bytes_per_token
        asked = Asked(self, size, tokens)
        self._waiting[asked] = None
        self._arrived += 1
        self._arrived_tokens += tokens
        return asked

    def begin(self, asked: Asked) -> None:
        """An answer has begun."""
        self._waiting.pop(asked, None)
        self._running += 1
        self._prefilled_tokens += asked.tokens * (1.0 - self._cached)
        self._skipped_tokens += asked.tokens * self._cached

    def end(self, asked: Asked, tokens: int, *, has_begun: bool) -> None:
        """A request has ended, for which so many tokens were generated."""
        self._finished += 1
        self._finished_tokens += tokens
        if has_begun:
            self._running -= 1
        else:
            self._waiting.pop(asked, None)

    def learn_length(self, bytes: int, tokens: int) -> None:
        """A prompt of so many bytes has so many tokens."""
        if bytes and tokens:
            self._bytes_per_token += (bytes / tokens - self._bytes_per_token) / _LATELY * 10

    def learn_cached(self, usage: Usage) -> None:
        """So much of a prompt came from the prefix cache."""
        if usage.prompt_tokens:
            self._cached += (usage.cached_tokens / usage.prompt_tokens - self._cached) / _LATELY * 10

    def demand(self) -> Demand:
        """What is asked of the model now."""
        late_s = self.clock() - BACKED_UP_S
        held, waiting_tokens, backed_up = 0, 0.0, set[str]()
        for asked in self._waiting:
            waiting_tokens += asked.tokens
            if asked.instance is None:
                held += 1
            elif asked.due_s < late_s:
                backed_up.add(asked.instance)
        return Demand(
            held=held,
            queued=len(self._waiting) - held,
            running=self._running,
            waiting_tokens=waiting_tokens,
            backed_up=len(backed_up),
            prefill_rate=max(self.prompts) if len(self.prompts) >= _FEW else 0.0,
            arrived=self._arrived,
            arrived_tokens=self._arrived_tokens,
            prefilled_tokens=self._prefilled_tokens,
            skipped_tokens=self._skipped_tokens,
            finished=self._finished,
            finished_tokens=self._finished_tokens,
            output_tokens=self.output_tokens,
        )


class MeteredSink:
    """Passes a stream on, and counts its tokens."""

    __slots__ = ("_asked", "_counted", "_emit", "_has_begun", "_meter", "_sink")

    def __init__(self, sink: Sink, asked: Asked) -> None:
        self._sink = sink
        self._emit = sink.emit
        self._meter = asked.meter
        self._asked = asked
        self._has_begun = False
        self._counted = 0

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if event.__class__ is TextDelta and self._has_begun:
            count = len(event.token_ids)
            self._counted += count
            self._meter.output_tokens += count
        elif event.__class__ is Finished:
            self._asked.finished(event.usage, self._counted)
        elif event.__class__ is Started:
            if event.prompt_tokens is not None:
                self._asked.says(event.prompt_tokens)
        else:
            self._has_begun = True
            self._asked.began()
            count = len(getattr(event, "token_ids", ()))
            self._counted += count
            self._meter.output_tokens += count
        self._emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream; nothing comes after it."""
        self._asked.over(self._counted)
        self._sink.fail(error)
