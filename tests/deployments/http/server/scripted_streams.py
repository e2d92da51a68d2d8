"""Streams of any events in any rhythm: what a script says, and its stream's bytes."""

from hypothesis import strategies as st

from deployments.http.server.sse_stream import Flusher, SseStream
from deployments.http.server.stream_format import ChoiceFormat, StreamFormat
from deployments.request_meter import RequestMeter
from engines.errors import PenstockError
from engines.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RedactedReasoning,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)

TEXT = st.text(max_size=12)
LOGPROBS = st.none() | st.lists(
    st.builds(TokenLogprob, TEXT, st.integers(0, 9), st.floats(-50, 0), st.binary(max_size=4)), max_size=2
).map(tuple)
REASONS: list[FinishReason] = ["stop", "length", "tool_calls", "content_filter", "cancelled"]

Script = list[Event | str]
"""Events, with `turn`, `block`, `unblock` and `measure` between them."""


class Pipe:
    """An outlet that can be blocked."""

    def __init__(self) -> None:
        self.writable = True
        self.writes: list[bytes] = []
        self.unsent = 0
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def send(self, data: bytes) -> None:
        assert self.writable
        self.writes.append(data)


@st.composite
def answers(
    draw: st.DrawFn,
    *,
    names: st.SearchStrategy[str] = TEXT,
    arguments: st.SearchStrategy[str] = TEXT,
    logprobs: st.SearchStrategy[tuple[TokenLogprob, ...] | None] = st.none(),  # noqa: B008 - it holds no state
    stop_reasons: st.SearchStrategy[str | None] = st.none(),  # noqa: B008 - it holds no state
) -> Script:
    """One answer of one choice.

    Args:
        draw: Hypothesis's.
        names: Of the tools that are called.
        arguments: Pieces of those of the calls.
        logprobs: Of pieces of text.
        stop_reasons: What stopped it.
    """
    script: Script = [Started("engine", "model", draw(st.none() | st.integers(0, 9)))]
    calls, open_calls = 0, set[int]()
    kinds = ["text", "reason", "redact", "call", "args", "end", "turn", "block", "unblock", "measure"]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=25)):
        match kind:
            case "text":
                script.append(TextDelta(draw(TEXT), logprobs=draw(logprobs)))
            case "reason":
                script.append(ReasoningDelta(draw(TEXT)))
            case "redact":
                script.append(RedactedReasoning(draw(TEXT)))
            case "call":
                script.append(ToolCallStarted(calls, draw(TEXT), draw(names)))
                open_calls.add(calls)
                calls += 1
            case "args" if open_calls:
                script.append(ToolCallArgumentsDelta(draw(st.sampled_from(sorted(open_calls))), draw(arguments)))
            case "end" if open_calls:
                ended = draw(st.sampled_from(sorted(open_calls)))
                open_calls.remove(ended)
                script.append(ToolCallFinished(ended))
            case ("turn" | "block" | "unblock" | "measure") as word:
                script.append(word)
    usage = Usage(draw(st.integers(0, 9)), 5, 1, 2)
    script.append(Finished((draw(st.sampled_from(REASONS)),), usage, "engine", (draw(stop_reasons),)))
    return script


def played(script: Script, format: StreamFormat, choice: ChoiceFormat, error: PenstockError | None = None) -> bytes:
    """All that a script's stream has written.

    Args:
        script: The script.
        format: The stream's.
        choice: Its one choice's.
        error: What it breaks off with, instead of its end.
    """
    stream = SseStream(format, Flusher(), RequestMeter("test"))
    sink = stream.sink([choice])
    pipe = Pipe()
    stream.open(pipe)
    for step in script:
        match step:
            case "turn":
                stream.flush()
            case "block":
                pipe.writable = False
            case "measure":
                stream.measure()
            case "unblock":
                pipe.writable = True
                stream.flush()
            case _:
                assert not isinstance(step, str)
                if error is None or not isinstance(step, Finished):
                    sink.emit(step)
    if error is not None:
        sink.fail(error)
    assert stream.ended.done()
    rest = b"".join(pipe.writes) + stream.take()
    stream.close()
    return rest
