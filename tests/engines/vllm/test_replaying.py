"""Replaying ids leaves a stream where it was, whatever the ids: half characters, stop strings, limits."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.demo import MODEL_PATH
from engines.events import Event, TextDelta
from engines.turns import Turns
from tests.lazily import lazily, needs
from tests.turns import others_go_on

needs("vllm", "its detokenizer reads the ids")

detokenizers = lazily("vllm.v1.engine.detokenizer")
outputs = lazily("vllm.outputs")
resuming = lazily("engines.vllm.resuming")
sampling_params = lazily("vllm.sampling_params")
streaming = lazily("engines.vllm.streaming")
tokenizers = lazily("vllm.tokenizers")
vllm_engine = lazily("vllm.v1.engine")

PROMPT = [5, 6, 7]


@cache
def tokenizer() -> Any:
    return tokenizers.get_tokenizer(str(MODEL_PATH))


@cache
def end() -> int:
    """The id that ends an answer."""
    id: int = tokenizer().eos_token_id
    return id


def core_request(**sampling: Any) -> Any:
    params = sampling_params.SamplingParams(output_kind=sampling_params.RequestOutputKind.DELTA, **sampling)
    params.update_from_generation_config({}, end())
    return vllm_engine.EngineCoreRequest(
        request_id="r",
        prompt_token_ids=list(PROMPT),
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


class Generating:
    """vLLM's own loop over the tokens of one request, without the model."""

    def __init__(self, core: Any) -> None:
        self.params = core.sampling_params
        self.detokenizer = detokenizers.IncrementalDetokenizer.from_new_request(tokenizer(), core)
        self.choice = streaming.VllmChoice(0, None)

    async def replay(self, ids: Sequence[int]) -> bool:
        return await resuming.replay(self.params, self.detokenizer, self.choice, ids, Turns())

    def generate(self, ids: Sequence[int], max_tokens: int) -> list[Event]:
        """What is said until the ids run out or the choice ends."""
        events: list[Event] = []
        for token_id in ids:
            is_end = token_id == end()
            stop_string = self.detokenizer.update([token_id], is_end)
            reason = "stop" if is_end or stop_string else None
            if reason is None and self.choice.tokens + 1 >= max_tokens:
                reason = "length"
            text = self.detokenizer.get_next_output_text(reason is not None, delta=True)
            self.choice.take(
                outputs.CompletionOutput(0, text, [token_id], None, None, None, reason, stop_string), events.append
            )
            if reason is not None:
                break
        return events


def said(events: Sequence[Event]) -> tuple[str, list[int]]:
    deltas = [event for event in events if isinstance(event, TextDelta)]
    return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.token_ids]


IDS = st.deferred(lambda: st.lists(st.sampled_from([*range(100, 256), *range(60), end()]), min_size=1, max_size=30))
STOPS = st.lists(st.text("abc!#$%&", min_size=1, max_size=3), max_size=2)


@settings(deadline=None)
@given(ids=IDS, stops=STOPS, keep=st.booleans(), min_tokens=st.integers(0, 6), data=st.data())
async def test_goes_on_as_if_undisturbed(
    ids: list[int], stops: list[str], keep: bool, min_tokens: int, data: st.DataObject
) -> None:
    core = core_request(stop=stops, include_stop_str_in_output=keep, max_tokens=20, min_tokens=min_tokens)
    first = Generating(core)
    whole = first.generate(ids, 20)
    boundaries = [0]
    for event in whole:
        boundaries.append(boundaries[-1] + len(event.token_ids))  # type: ignore[union-attr]
    count = data.draw(st.integers(0, len(whole)), label="events delivered")
    delivered = whole[:count]
    generated = ids[: boundaries[count]]
    second = Generating(core)
    is_over = await second.replay(generated)
    assert is_over == (first.choice.reason is not None and boundaries[count] == boundaries[-1])
    rest = [] if is_over else second.generate(ids[boundaries[count] :], 20)
    assert said([*delivered, *rest]) == said(whole)
    assert second.choice.tokens == first.choice.tokens
    assert second.choice.reason == first.choice.reason
    assert second.choice.stop_reason == first.choice.stop_reason


async def test_a_replay_leaves_the_event_loop_to_others() -> None:
    core = core_request(max_tokens=20)
    async with others_go_on() as steps:

        class Choice(streaming.VllmChoice):  # type: ignore[name-defined]
            def take(self, *_: Any) -> None:
                steps.take()

        def detokenizer() -> Any:
            return detokenizers.IncrementalDetokenizer.from_new_request(tokenizer(), core)

        starts = await resuming.going_on(
            core.sampling_params, detokenizer, [Choice(0, None), Choice(1, None)], [[100] * 3] * 2
        )
    assert list(starts) == [0, 1]
    steps.check(6)
