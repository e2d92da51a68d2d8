from actors.prefill_meter import PrefillMeter
from engines.events import Usage
from tests.clock import Clock


def test_prompts_count_from_their_arrival_to_their_first_token() -> None:
    meter = PrefillMeter(Clock())
    meter.enter(100)
    meter.enter(30)
    meter.begin(100)
    assert meter.waiting_tokens == 30
    meter.leave(30)
    assert meter.waiting_tokens == 0


def test_the_rate_is_of_the_time_in_which_there_was_something_to_compute() -> None:
    clock = Clock()
    meter = PrefillMeter(clock)
    meter.enter(3000)
    clock.now_s += 1.0
    meter.begin(3000)
    clock.now_s += 50.0
    meter.enter(1000)
    meter.enter(2000)
    clock.now_s += 1.0
    meter.begin(1000)
    meter.begin(2000)
    assert meter.rate == 3000.0


def test_there_is_no_rate_before_some_work_was_done() -> None:
    clock = Clock()
    meter = PrefillMeter(clock)
    assert meter.rate == 0.0
    meter.enter(10)
    clock.now_s += 0.01
    meter.begin(10)
    assert meter.rate == 0.0


def test_an_engine_that_became_slower_is_known_as_slow_after_a_while() -> None:
    clock = Clock()
    meter = PrefillMeter(clock)
    for rate in (5000, 500):
        for _ in range(300):
            meter.enter(rate)
            clock.now_s += 1.0
            meter.begin(rate)
    assert 500 <= meter.rate < 600


def test_what_came_from_the_cache_is_not_put_into_it_again() -> None:
    meter = PrefillMeter(Clock())
    meter.finish(Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=64))
    assert meter.written_tokens == 43
