import pytest

from deployments.routing.demand_meter import BYTES_PER_TOKEN, DemandMeter, MeteredSink
from engines.call_requests import EmbedRequest
from engines.completion import Collector
from engines.errors import InstanceLost
from engines.events import Finished, ReasoningDelta, Started, TextDelta, Usage
from engines.requests import GenerateRequest
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> DemandMeter:
    return DemandMeter(clock)


def ask(tokens: int = 100) -> GenerateRequest:
    return GenerateRequest(model="m", prompt_token_ids=[1] * tokens)


async def test_a_request_is_held_then_queued_then_runs_and_is_over(meter: DemandMeter) -> None:
    asked = meter.arrive(ask(100))
    sink = MeteredSink(Collector(), asked)
    demand = meter.demand()
    assert (demand.held, demand.queued, demand.running, demand.waiting_tokens) == (1, 0, 0, 100)
    asked.sent("i-1")
    sink.emit(Started("e", "m", prompt_tokens=100))
    demand = meter.demand()
    assert (demand.held, demand.queued, demand.running, demand.waiting_tokens) == (0, 1, 0, 100)
    sink.emit(TextDelta("a", token_ids=(1, 2)))
    sink.emit(TextDelta("b", token_ids=(3,)))
    demand = meter.demand()
    assert (demand.held, demand.queued, demand.running, demand.waiting_tokens) == (0, 0, 1, 0)
    assert (demand.output_tokens, demand.prefilled_tokens) == (3, 100)
    sink.emit(Finished(("stop",), Usage(prompt_tokens=100, completion_tokens=5), "e"))
    demand = meter.demand()
    assert (demand.under_way, demand.arrived, demand.finished, demand.output_tokens) == (0, 1, 1, 5)
    assert demand.finished_tokens == 5


async def test_hidden_reasoning_is_output_too(meter: DemandMeter) -> None:
    sink = MeteredSink(Collector(), meter.arrive(ask()))
    sink.emit(ReasoningDelta("hm", token_ids=(1, 2, 3)))
    assert (meter.demand().running, meter.demand().output_tokens) == (1, 3)


async def test_a_stream_that_fails_is_over(meter: DemandMeter) -> None:
    asked = meter.arrive(ask())
    sink = MeteredSink(Collector(), asked)
    sink.emit(TextDelta("a", token_ids=(1,)))
    sink.fail(InstanceLost("gone"))
    asked.over()
    assert (meter.demand().under_way, meter.demand().finished, meter.demand().finished_tokens) == (0, 1, 1)


def test_a_request_that_came_back_is_held(meter: DemandMeter) -> None:
    asked = meter.arrive(ask())
    asked.sent("i-1")
    asked.came_back()
    assert meter.demand().held == 1


def test_an_instance_is_backed_up_once_a_request_has_waited_for_a_second(meter: DemandMeter, clock: Clock) -> None:
    for instance in ("a", "a", "b"):
        meter.arrive(ask()).sent(instance)
    assert meter.demand().backed_up == 0
    clock.now_s += 1.5
    meter.arrive(ask()).sent("c")
    assert meter.demand().backed_up == 2


def test_who_waits_for_an_instance_to_wake_does_not_wait_for_others(meter: DemandMeter, clock: Clock) -> None:
    meter.arrive(ask()).sent("a", 10.0)
    clock.now_s += 10.5
    assert meter.demand().backed_up == 0
    clock.now_s += 1.0
    assert meter.demand().backed_up == 1


def test_text_is_taken_for_as_many_tokens_as_texts_were_before(meter: DemandMeter) -> None:
    text = GenerateRequest(model="m", prompt="x" * 4000)
    assert meter.arrive(text).tokens == pytest.approx(4000 / BYTES_PER_TOKEN, rel=0.01)
    for _ in range(300):
        meter.arrive(text).says(2000)
    assert meter.arrive(text).tokens == pytest.approx(2000, rel=0.01)


def test_embeddings_are_work_too(meter: DemandMeter) -> None:
    assert meter.arrive(EmbedRequest(model="m", inputs=["x" * 400])).tokens == pytest.approx(100)


async def test_long_prompts_show_how_fast_an_instance_computes_them(meter: DemandMeter, clock: Clock) -> None:
    for cached in (0, 0, 0, 0, 0, 0, 0, 600):
        asked = meter.arrive(ask(1200))
        sink = MeteredSink(Collector(), asked)
        asked.sent("i")
        assert meter.demand().prefill_rate == 0
        clock.now_s += 0.5
        sink.emit(TextDelta("a", token_ids=(1,)))
        sink.emit(Finished(("stop",), Usage(prompt_tokens=1200, completion_tokens=1, cached_tokens=cached), "e"))
    assert meter.demand().prefill_rate == pytest.approx(2400)
