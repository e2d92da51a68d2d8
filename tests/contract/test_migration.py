"""A stream that breaks is continued, on every engine, and says what an undisturbed one says."""

from collections.abc import Callable

import pytest

from engines.completion import Completion, collect
from engines.context import Context
from engines.errors import InstanceLost, OtherVocabulary, PenstockError
from engines.events import Event, Finished, Started
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.operators.operator import Transparent
from engines.requests import GenerateRequest, Resume
from engines.sink import Sink
from tests.contract.asking import WEATHER, Running, said

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Breaking(Transparent):
    """Breaks the first streams after so many events each, as the death of their engine would."""

    def __init__(self, *breaks: int) -> None:
        self.breaks = list(breaks)
        self.requests: list[GenerateRequest] = []
        self.ids: set[str] = set()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self.requests.append(request)
        self.ids.add(context.id)
        if self.breaks:
            context = context.child()
            sink = _BreakingSink(sink, context, self.breaks.pop(0))
        await super().submit(request, context, sink)


class _BreakingSink:
    def __init__(self, sink: Sink, context: Context, left: int) -> None:
        self._sink = sink
        self._context = context
        self._left = left

    def emit(self, event: Event) -> None:
        if self._left >= 0:
            self._sink.emit(event)
            self._left = -1 if isinstance(event, Finished) else self._left - 1
            if self._left == 0:
                self._left = -1
                self._sink.fail(InstanceLost("The engine was lost."))
                self._context.kill()

    def fail(self, error: PenstockError) -> None:
        if self._left >= 0:
            self._sink.fail(error)


async def broken_at(subject: Running, request: GenerateRequest, *breaks: int) -> tuple[Completion, Breaking]:
    engine = Breaking(*breaks)
    context = Context()
    completion = await collect(link(Migration(), engine, subject.engine).generate(request, context))
    assert engine.ids == {context.id}
    return completion, engine


Ask = Callable[[Running], GenerateRequest]
REQUESTS: dict[str, tuple[tuple[str, ...], Ask]] = {
    "text": ((), lambda s: s.counting(1, 12)),
    "max_tokens": ((), lambda s: s.counting(1, 12, max_tokens=5)),
    "min_tokens": ((), lambda s: s.counting(3, 5, min_tokens=2)),
    "stop string across the cut": ((), lambda s: s.counting(1, 30, stop=["9 10 11"])),
    "stop string that nearly came": ((), lambda s: s.counting(1, 12, stop=["9 10 12"])),
    "logprobs": (("logprobs",), lambda s: s.counting(1, 9, logprobs=2)),
    "tool call": (("tools",), lambda s: s.request("what is the weather in Paris?", tools=[WEATHER])),
    "reasoning": (
        ("reasoning",),
        lambda s: s.request("count from 3 to 7", chat_template_kwargs={"enable_thinking": True}),
    ),
    "penalties": ((), lambda s: s.counting(1, 9, frequency_penalty=0.5)),
    "a seed": ((), lambda s: s.request("tell me more", sampling={"temperature": 2.0, "seed": 5, "max_tokens": 24})),
    "several choices": ((), lambda s: s.counting(1, 9, n=2)),
    "several choices of a seed": (
        (),
        lambda s: s.request("tell me more", sampling={"temperature": 2.0, "seed": 5, "max_tokens": 12, "n": 3}),
    ),
    "a schema": (
        ("guided",),
        lambda s: s.request(
            "describe Ada as json",
            sampling={
                "guided": {"json_schema": {"type": "object", "properties": {"age": {"type": "integer"}}}},
                "max_tokens": 60,
            },
        ),
    ),
    "a forced tool": (
        ("tools",),
        lambda s: s.request("what is the weather in Rome?", tools=[WEATHER], tool_choice="required"),
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_a_broken_stream_goes_on_as_if_nothing_had_happened(subject: Running, what: str) -> None:
    needs, ask = REQUESTS[what]
    subject.needs("resume", *needs)
    request = ask(subject)
    whole = await subject.ask(request)
    deltas = len(await subject.listen(request)) - 2
    for cut in range(1, deltas + 2, max(1, deltas // 6)):
        completion, engine = await broken_at(subject, request, cut)
        assert said(completion) == said(whole), f"after {cut} events"
        assert len(engine.requests) == 2
        resume = engine.requests[1].resume
        assert resume is not None and (any(resume.choices) or cut == 1)
    await subject.is_idle()


async def test_what_was_generated_is_not_generated_again(subject: Running) -> None:
    subject.needs("resume")
    _, engine = await broken_at(subject, subject.counting(1, 12), 6)
    resume = engine.requests[1].resume
    assert resume is not None and any(resume.choices)


async def test_nobody_goes_on_from_ids_of_another_vocabulary(subject: Running) -> None:
    subject.needs("resume")
    request = subject.counting(1, 12)
    started = (await subject.listen(request))[0]
    assert isinstance(started, Started)
    if not started.vocabulary:
        pytest.skip(f"{started.engine} does not say what its ids mean")
    _, engine = await broken_at(subject, request, 6)
    resume = engine.requests[1].resume
    assert resume is not None and resume.vocabulary == started.vocabulary
    other = request.model_copy(update={"resume": resume.model_copy(update={"vocabulary": "other"})})
    with pytest.raises(OtherVocabulary):
        await subject.ask(other)
    # What starts over goes on from nothing.
    afresh = request.model_copy(update={"resume": Resume(vocabulary="other")})
    assert said(await subject.ask(afresh)) == said(await subject.ask(request))
    await subject.is_idle()


async def test_it_is_moved_as_often_as_the_limit_says(subject: Running) -> None:
    subject.needs("resume")
    request = subject.counting(1, 30)
    whole = await subject.ask(request)
    completion, engine = await broken_at(subject, request, 3, 3, 3)
    assert said(completion) == said(whole)
    assert len(engine.requests) == 4
    with pytest.raises(InstanceLost):
        await broken_at(subject, request, 3, 3, 3, 3)
    await subject.is_idle()
