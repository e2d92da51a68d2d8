"""What may cross a channel, as hypothesis strategies."""

from hypothesis import strategies as st

from engines.contract import Load
from engines.errors import (
    ContextOverflow,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    PenstockError,
    QueueFull,
    Timeout,
)
from engines.events import (
    Event,
    Finished,
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

texts = st.text(max_size=8)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple)
choices = st.integers(0, 2)
leaf_logprobs = st.builds(
    TokenLogprob, texts, st.integers(0, 2**31 - 1), st.floats(max_value=0.0, allow_nan=False), st.binary(max_size=4)
)
logprobs = st.none() | st.lists(
    st.builds(
        TokenLogprob,
        texts,
        st.integers(0, 2**31 - 1),
        st.floats(max_value=0.0, allow_nan=False),
        st.binary(max_size=4),
        st.lists(leaf_logprobs, max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)

deltas: st.SearchStrategy[Event] = st.one_of(
    st.builds(TextDelta, texts, choices, token_ids),
    st.builds(TextDelta, texts, choices, token_ids, logprobs),
    st.builds(ReasoningDelta, texts, choices, token_ids, logprobs),
    st.builds(RedactedReasoning, texts, choices),
    st.builds(ToolCallStarted, st.integers(0, 2), texts, texts, choices, token_ids),
    st.builds(ToolCallArgumentsDelta, st.integers(0, 2), texts, choices, token_ids),
    st.builds(ToolCallFinished, st.integers(0, 2), choices, token_ids),
)
started = st.builds(Started, texts, texts, st.none() | st.integers(0, 100))
finished = st.builds(
    Finished,
    st.just(("stop",)) | st.just(("length", "cancelled")),
    st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    texts,
)
errors: st.SearchStrategy[PenstockError] = st.one_of(
    st.builds(InvalidRequest, texts, param=texts),
    st.builds(ContextOverflow, texts, context_length=st.integers(0, 9), prompt_tokens=st.none() | st.integers(0, 9)),
    st.builds(QueueFull, texts, retry_after_s=st.floats(0, 9)),
    st.builds(InstanceLost, texts, instance=texts),
    st.builds(EngineFailed, texts),
    st.builds(Timeout, st.just("total"), st.floats(0.1, 9)),
)
items = st.one_of(deltas, started, finished, errors)
loads = st.builds(
    Load,
    st.integers(0, 999),
    st.integers(0, 999),
    st.floats(0, 1),
    adapters=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    queued_tokens=st.integers(0, 2**40),
)
