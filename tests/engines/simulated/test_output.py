"""From token ids to events: stop strings and resuming, against what a naive reader would do."""

import codecs
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engines.completion import CompletionBuilder
from engines.events import Delta, Finished, ReasoningDelta, TextDelta, ToolCallArgumentsDelta, Usage
from engines.requests import GenerateRequest, Sampling
from engines.simulated.output import Output
from engines.simulated.tokenizer import BYTES_OF, SPOKEN, Special, encode

LETTERS = [encode(letter)[0] for letter in "ab"] + [encode(" a")[0], *"é".encode()]
stop_strings = st.text("ab é", min_size=1, max_size=4)


def output(*, max_tokens: int = 1000, thinking: bool = False, **sampling: object) -> Output:
    request = GenerateRequest(model="model", prompt="x", sampling=Sampling.model_validate(sampling))
    return Output(request, 0, max_tokens=max_tokens, thinking=thinking, call_prefix="call_")


def fed(made: Output, token_ids: Sequence[int]) -> list[Delta]:
    """The events of the tokens, up to where the output ends."""
    events = []
    for token_id in token_ids:
        event = made.feed(token_id)
        if event is not None:
            events.append(event)
        if made.reason is not None:
            break
    return events


def text_of(events: Sequence[Delta]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def naive(token_ids: Sequence[int], stops: Sequence[str], *, include: bool) -> tuple[str, int]:
    """The text and the number of tokens, by looking at all of the text after every token."""
    for tokens in range(1, len(token_ids) + 1):
        raw = b"".join(BYTES_OF[token_id] for token_id in token_ids[:tokens])
        # What is not a whole character yet is not text yet; at the end it is.
        last = tokens == len(token_ids)
        text = raw.decode("utf-8", "replace") if last else _whole(raw)
        hits = sorted((text.find(stop), stop) for stop in stops if stop in text)
        if hits:
            at, stop = hits[0]
            return text[: at + len(stop) * include], tokens
    return b"".join(BYTES_OF[token_id] for token_id in token_ids).decode("utf-8", "replace"), len(token_ids)


def _whole(raw: bytes) -> str:
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw)


@settings(max_examples=400)
@given(
    token_ids=st.lists(st.sampled_from(LETTERS), min_size=1, max_size=24),
    stops=st.lists(stop_strings, max_size=3),
    include=st.booleans(),
)
@example(token_ids=encode("aab"), stops=["ab"], include=False)
def test_stop_strings_are_found_as_a_naive_reader_finds_them(
    token_ids: list[int], stops: list[str], include: bool
) -> None:
    made = output(stop=stops, include_stop_str_in_output=include, max_tokens=len(token_ids))
    events = fed(made, token_ids)
    text, tokens = naive(token_ids, stops, include=include)
    assert text_of(events) == text
    assert made.tokens == tokens
    assert [i for event in events if isinstance(event, TextDelta) for i in event.token_ids] == token_ids[:tokens]


@given(token_ids=st.lists(st.sampled_from(LETTERS), max_size=24), stops=st.lists(stop_strings, min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_begin_a_stop_string(token_ids: list[int], stops: list[str]) -> None:
    made = output(stop=stops)
    said = text_of(fed(made, token_ids))
    if made.reason is None:
        held = _whole(b"".join(BYTES_OF[token_id] for token_id in token_ids))[len(said) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def _tool_call(name: str, arguments: str) -> list[int]:
    return [Special.TOOL_CALL, *encode(name), Special.ARGUMENTS, *encode(arguments), Special.END_TOOL_CALL]


spoken = st.lists(st.sampled_from([*SPOKEN[:20], *"é水".encode()]), max_size=8)
answers = st.tuples(spoken, st.booleans(), spoken, st.booleans()).map(
    lambda parts: [
        *(parts[0] + [Special.END_THINK] if parts[1] else []),
        *parts[2],
        *(_tool_call("get_weather", '{"city": "Zürich"}') if parts[3] else []),
        Special.END,
    ]
)


@settings(max_examples=300)
@given(
    token_ids=answers,
    thinking=st.booleans(),
    stops=st.lists(st.sampled_from([" about after", "bov", "é水", " a"]), max_size=2),
    logprobs=st.none() | st.integers(0, 2),
)
def test_resuming_after_any_event_says_exactly_the_rest(
    token_ids: list[int], thinking: bool, stops: list[str], logprobs: int | None
) -> None:
    def made() -> Output:
        return output(thinking=thinking, stop=stops, logprobs=logprobs)

    if not thinking:
        token_ids = [token_id for token_id in token_ids if token_id != Special.END_THINK]
    whole = made()
    events = fed(whole, token_ids)
    for cut in range(len(events) + 1):
        said = sum(len(getattr(event, "token_ids", ())) for event in events[:cut])
        resumed = made()
        fed(resumed, token_ids[:said])
        rest = [] if resumed.reason is not None else fed(resumed, token_ids[said:])
        assert rest == events[cut:]
        assert (resumed.reason, resumed.stop_reason) == (whole.reason, whole.stop_reason)
        assert (resumed.tokens, resumed.reasoning_tokens) == (whole.tokens, whole.reasoning_tokens)


@given(token_ids=answers, max_tokens=st.integers(1, 40), thinking=st.booleans())
def test_every_token_travels_with_some_event_and_in_order(
    token_ids: list[int], max_tokens: int, thinking: bool
) -> None:
    made = output(max_tokens=max_tokens, thinking=thinking)
    events = fed(made, token_ids)
    carried = [token_id for event in events for token_id in getattr(event, "token_ids", ())]
    assert carried == token_ids[: made.tokens]
    assert made.reason is not None


def test_a_character_of_several_tokens_comes_whole() -> None:
    made = output()
    events = fed(made, [*"水".encode(), *encode(" a")])
    assert events[0] == TextDelta("水", 0, tuple("水".encode()))


def test_half_a_character_at_the_end_is_replaced() -> None:
    made = output(max_tokens=2)
    assert text_of(fed(made, "水".encode()[:2])) == "\N{REPLACEMENT CHARACTER}"


def test_reasoning_ends_at_its_token_and_the_token_says_nothing() -> None:
    events = fed(output(thinking=True), [*encode("so"), Special.END_THINK, *encode("yes"), Special.END])
    assert events == [
        ReasoningDelta("so", 0, tuple(encode("so"))),
        TextDelta("yes", 0, (Special.END_THINK, *encode("yes"))),
        TextDelta("", 0, (Special.END,)),
    ]


def test_text_before_a_tool_call_is_said_and_the_call_ends_the_answer() -> None:
    made = output(stop=["hm!"])
    events = fed(made, [*encode("hm"), *_tool_call("add", '{"a": 1}'), Special.END])
    builder = CompletionBuilder()
    for event in events:
        builder.add(event)
    assert made.reason is not None
    completion = builder.add(Finished((made.reason,), Usage(), "engine"))
    assert completion is not None
    assert completion.text == "hm"
    assert completion.choices[0].reason == "tool_calls"
    assert [(c.id, c.name, c.arguments) for c in completion.choices[0].tool_calls] == [("call_0", "add", '{"a": 1}')]
    assert "".join(e.arguments for e in events if isinstance(e, ToolCallArgumentsDelta)) == '{"a": 1}'


def test_what_is_held_for_a_stop_string_is_not_said_when_the_answer_is_cut_off() -> None:
    made = output(stop=["ab!"])
    assert fed(made, encode("a")) == []
    assert made.unsaid() == TextDelta("", 0, tuple(encode("a")))
