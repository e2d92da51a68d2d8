"""Settings of the parts that live in actors; sections of the fleet file."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ACCELERATOR = "accelerator_type:"
"""How Ray's resource of a kind of accelerator begins; a node that has any of that kind has one of it."""


class Settings(BaseModel):
    """Base of every section of the fleet file: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LaneSettings(Settings):
    """How much one instance takes of what is not generated. A byte of text counts one, a token id four.

    Attributes:
        running_bytes: Bytes that are worked on at a time; a larger request runs alone.
        queued_bytes: Bytes that wait; the rest is refused at once with QueueFull.
        max_bytes: A larger request is refused as too large.
        least_bytes: What the smallest request counts, so that their number is bounded, too.
    """

    running_bytes: int = Field(ge=1)
    queued_bytes: int = Field(ge=0)
    max_bytes: int = Field(ge=1)
    least_bytes: int = Field(ge=1)


class AdmissionSettings(Settings):
    """How much work one instance takes.

    Attributes:
        max_running: Requests handed to the engine at a time; None: as many as it works on in one step. One for n
            choices counts as n. Those for several take at most three quarters of it together, and one for more choices
            than that counts as so many.
        max_queued: Requests that wait at the gate, likewise; the rest is refused at once with QueueFull.
        queue_timeout_s: One that has waited there for so long is given up with QueueTimeout.
        texts: What is tokenized and detokenized, in a lane of its own.
        embeddings: What vectors and scores are made of, likewise.
    """

    max_running: int | None = Field(None, ge=1)
    max_queued: int = Field(512, ge=0)
    queue_timeout_s: float = Field(60.0, gt=0)
    texts: LaneSettings = LaneSettings(
        running_bytes=2**20, queued_bytes=16 * 2**20, max_bytes=4 * 2**20, least_bytes=4096
    )
    embeddings: LaneSettings = LaneSettings(
        running_bytes=16 * 2**20, queued_bytes=64 * 2**20, max_bytes=32 * 2**20, least_bytes=64 * 1024
    )


class ChannelSettings(Settings):
    """How one channel between an instance and a router replica behaves.

    Attributes:
        window: Frames sent and not yet acknowledged; past it the outbox holds back and merges deltas.
        ack_every: Frames after which the router acknowledges at the latest.
        heartbeat_s: The router acknowledges at least so often, even when nothing came.
        silence_s: A channel without any acknowledgement for so long is closed, and its requests killed.
        pace_s: Shortest time between two frames that only go on with streams: each costs a third of a millisecond of
            CPU. The first piece and the end of a request never wait.
        unread_stream_bytes: About how much of one stream may wait while the window is used up; past it the stream ends.
        unread_bytes: The same for all streams of a channel; past it the largest end.
        rotate_after: Frames after which the call underneath is renewed, because Ray's worker keeps a record of each.
    """

    window: int = Field(64, ge=2)
    ack_every: int = Field(32, ge=1)
    heartbeat_s: float = Field(1.0, gt=0)
    silence_s: float = Field(4.0, gt=0)
    pace_s: float = Field(0.001, ge=0, le=0.1)
    unread_stream_bytes: int = Field(64 * 2**20, ge=2**20)
    unread_bytes: int = Field(512 * 2**20, ge=2**20)
    rotate_after: int = Field(4000, ge=16)


class SleepSettings(Settings):
    """When an instance without work sleeps: it gives up its accelerator's memory, and wakes for its next request.

    Attributes:
        after_s: So long has it had no work by then.
        level: By vLLM's numbers. 1: the weights go to the machine's memory, and come back from there. 2: they are
            dropped, and loaded again from where the boot had them. The KV cache is dropped either way.
        timeout_s: Falling asleep may take so long, and so may waking; an engine that is not done by then is replaced.
    """

    after_s: float = Field(gt=0)
    level: Literal[1, 2] = 1
    timeout_s: float = Field(120.0, gt=0)


class PatienceSettings(Settings):
    """How long a router waits for an engine, or a stream, that makes no progress. Silence by itself means nothing.

    Attributes:
        stall_s: An engine that has work and takes no step for so long hangs: its streams move, and it is replaced. A
            stream that the engine works on, and that does not advance for so long while the engine steps, fails with
            Timeout, and moves.
    """

    stall_s: float = Field(30.0, gt=0)
