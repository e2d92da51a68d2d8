"""The wire of a channel: frames as bytes.

A frame says what happened on one instance since the last frame, for all requests of one router replica: their events
and errors in order, the instance's load, and news for every router. It is a pickle, because both ends are Ray workers
of one cluster and one version, which already trust each other's pickles. The event that makes up nearly all of the
traffic, a plain `TextDelta`, travels as a bare tuple; that halves its cost.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.contract import Load
from engines.errors import PenstockError
from engines.events import Event, TextDelta

Entry = tuple[int, Event | PenstockError]
"""The number of a request on its channel, and what happened to it. An error is its end."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that every router should know of an instance.

    Attributes:
        topic: What it is about; a receiver ignores topics that it does not know.
        body: Plain data, as the topic has it.
    """

    topic: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What an engine did since it last said: the one sign of life of an engine and its streams. One per heartbeat.

    Attributes:
        steps: Steps of the engine so far; None where it cannot tell.
        is_busy: Whether the engine has work, so that it should step.
        streams: For each request whose progress is known: its number, its tokens computed so far, and whether it is
            being worked on. What waits at the gate is not.
    """

    steps: int | None
    is_busy: bool
    streams: Sequence[tuple[int, int, bool]] = ()


DRAINING = "draining"
"""Topic: the instance takes no new work. Body: None."""
ENGINE_DIED = "engine died"
"""Topic: the engine is finished or hangs, and every request on the instance with it. Body: the numbers of this
channel's requests that waited in a queue until then, at the gate or in the engine: they cannot have been its end."""
TRIED = "tried"
"""Topic: a request that is to be tried alone is about to be handed to the engine, once this is acknowledged. Body: its
number."""
SESSIONS = "sessions"
"""Topic: the instance has served these sessions. Body: a list of their ids, each with the seconds since."""
PREFIXES = "prefixes"
"""Topic: a prompt was sent to the instance. Body: its prefixes as packed numbers, the shortest first; and how many
tokens had been put into the KV cache by then."""
ALL_PREFIXES = "all prefixes"
"""Topic: all that were sent there and may be cached. Body: the prefixes, the one that was used longest ago first; and
for each of them what had been put in by then; both as packed numbers."""
CHUNKS = "chunks"
"""Topic: the engine has stored blocks, or removed some. Body: the number of this change; the prefixes that are cached
now; how many tokens of full blocks end with each of them; the prefixes that are no more; all as packed numbers."""
ALL_CHUNKS = "all chunks"
"""Topic: all that the engine has cached. Body: the number of the last change; the prefixes, the one that was used
longest ago first; the tokens of each, as above; both as packed numbers."""
OF_PROMPTS = (PREFIXES, CHUNKS)


@dataclass(frozen=True, slots=True)
class Frame:
    """One item on a channel.

    Attributes:
        sequence: 1 for the first frame of a channel, then one more for each; goes on through renewed calls.
        entries: What happened to the requests, in order.
        load: How busy the instance is.
        news: What else there is to know.
        pulse: What the engine did, once per heartbeat; else None.
    """

    sequence: int
    entries: Sequence[Entry]
    load: Load
    news: Sequence[News] = ()
    pulse: Pulse | None = None


def encode(frame: Frame) -> bytes:
    """A frame as bytes."""
    wire: list[tuple[Any, ...]] = []
    append = wire.append
    for number, event in frame.entries:
        if event.__class__ is TextDelta and not event.index and event.logprobs is None:
            append((number, event.text, event.token_ids))
        else:
            append((number, event))
    load = frame.load
    news = [(item.topic, item.body) for item in frame.news]
    pulse = None if frame.pulse is None else (frame.pulse.steps, frame.pulse.is_busy, frame.pulse.streams)
    busy = (
        load.running,
        load.queued,
        load.kv_use,
        load.lag_s,
        load.adapters,
        load.queued_tokens,
        load.prefill_rate,
        load.written_tokens,
        load.prompt_tokens,
        load.cached_tokens,
        load.is_full,
        load.is_asleep,
        load.wake_s,
    )
    return pickle.dumps((frame.sequence, wire, busy, news, pulse), 5)


def decode(data: bytes) -> Frame:
    """The frame that was encoded.

    Raises:
        Exception: The bytes are no frame; what it is depends on what is wrong with them.
    """
    sequence, wire, load, news, pulse = pickle.loads(data)  # noqa: S301 - see the module's docstring
    entries: list[Entry] = []
    append = entries.append
    for item in wire:
        if len(item) == 3:
            append((item[0], TextDelta(item[1], 0, item[2])))
        else:
            append(item)
    return Frame(
        sequence,
        entries,
        Load(*load),
        [News(topic, body) for topic, body in news],
        None if pulse is None else Pulse(*pulse),
    )
