from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.scaling.demand import Demand
from deployments.scaling.scaler import GAP_S, Decision, Goal, Scaler
from deployments.scaling.work_rates import Rates

GOAL = Goal(min=0, max=8, wait_s=1.0, idle_s=60.0, prior=Rates(1000, 100))


class Model:
    """A model whose instances boot at once, and what is asked of it."""

    def __init__(self, goal: Goal = GOAL, target: int = 0) -> None:
        self.scaler = Scaler(goal)
        self.now_s = 5000.0
        self.target = target
        self.demand = Demand()

    def after(self, seconds: float, **demand: float) -> Decision:
        """The decision after that time, with this demand from then on."""
        self.demand = replace(self.demand, **demand)
        return self.hear(seconds, self.demand)

    def hear(self, seconds: float, demand: Demand | None, *, is_whole: bool = True) -> Decision:
        self.now_s += seconds
        decision = self.scaler.decide(self.now_s, demand, target=self.target, ready=self.target, is_whole=is_whole)
        self.target = decision.target
        return decision

    def arrive(self, requests: int, seconds: int, prompt_tokens: int = 100, output_tokens: int = 10) -> Decision:
        """So many requests each second, which are answered at once."""
        for _ in range(seconds):
            decision = self.after(
                1,
                arrived=self.demand.arrived + requests,
                arrived_tokens=self.demand.arrived_tokens + requests * prompt_tokens,
                prefilled_tokens=self.demand.prefilled_tokens + requests * prompt_tokens,
                finished=self.demand.finished + requests,
                finished_tokens=self.demand.finished_tokens + requests * output_tokens,
                output_tokens=self.demand.output_tokens + requests * output_tokens,
            )
        return decision

    def quiet(self, seconds: int) -> Decision:
        for _ in range(seconds):
            decision = self.after(1, held=0, queued=0, running=0, waiting_tokens=0)
        return decision


def test_an_idle_model_stays_asleep() -> None:
    assert Model().quiet(600).target == 0


def test_a_held_request_wakes_a_sleeping_model_at_once() -> None:
    model = Model()
    model.quiet(5)
    assert model.after(1, held=1, arrived=1, arrived_tokens=10, waiting_tokens=10).target == 1


def test_a_queue_that_one_instance_cannot_serve_in_time_wakes_more() -> None:
    model = Model()
    model.quiet(5)
    # 3 instance-minutes of work, and a boot takes half a minute.
    assert model.after(1, held=100, arrived=100, arrived_tokens=180_000, waiting_tokens=180_000).target > 4


def test_answers_that_end_together_are_as_long_as_they_were() -> None:
    model = Model(replace(GOAL, idle_s=300.0), target=1)
    for wave in range(1, 6):
        for second in range(1, 11):
            # Four streams of ten seconds, side by side.
            ended = 4 * (wave - (second < 10))
            model.after(1, arrived=4 * wave, running=4, finished=ended, finished_tokens=100 * ended)
    waiting = {"arrived": 60, "queued": 40, "running": 0}
    # 40 answers of 100 tokens, 100 a second.
    assert model.after(1, **waiting).backlog_s == pytest.approx(40, rel=0.25)


def test_work_that_comes_in_is_tokens_over_rates() -> None:
    model = Model(replace(GOAL, idle_s=300.0), target=8)
    # 20 requests of 0.2 s of work a second: four instances busy all the time.
    decision = model.arrive(20, 200, prompt_tokens=100, output_tokens=10)
    assert decision.rates == Rates(1000, 100)
    assert decision.work == pytest.approx(4, rel=0.05)
    assert 5 <= decision.wanted <= 6


def test_two_instances_are_not_ended_before_they_were_idle_for_long_enough() -> None:
    model = Model()
    busy = model.arrive(20, 300).target
    # The load is seen to end only once the window is past it; then it is the goal's time.
    assert model.quiet(50).target == busy
    assert model.quiet(240).target == 0


def test_a_model_that_may_not_sleep_keeps_its_least_instances() -> None:
    model = Model(replace(GOAL, min=2), target=5)
    assert model.quiet(600).target == 2


def test_open_streams_without_anything_new_keep_an_instance() -> None:
    model = Model(target=1)
    for _ in range(600):
        assert model.after(1, running=1).target == 1


def test_streams_that_generate_count_when_nothing_new_comes_in() -> None:
    model = Model(target=4)
    tokens = 0.0
    for _ in range(600):
        tokens += 300  # Three instances' worth.
        decision = model.after(1, running=50, output_tokens=tokens)
    assert decision.target == 4


def test_without_a_report_all_stays_as_it_is() -> None:
    model = Model(target=3)
    model.quiet(300)
    model.target = 3
    decision = model.hear(1, None)
    assert (decision.target, decision.reason) == (3, "no reports")


def test_nothing_shrinks_while_a_router_was_not_heard() -> None:
    model = Model(target=3)
    for _ in range(300):
        assert model.hear(1, Demand(), is_whole=False).target == 3


def test_a_router_that_was_not_heard_does_not_hold_up_growth() -> None:
    model = Model()
    assert model.hear(1, Demand(held=1, waiting_tokens=10), is_whole=False).target == 1


def test_idle_time_counts_anew_after_a_gap_in_the_reports() -> None:
    model = Model(target=3)
    model.quiet(50)
    assert model.hear(GAP_S + 1, Demand()).target == 3
    assert model.quiet(50).target == 3
    assert model.quiet(20).target == 0


def test_a_new_scaler_ends_nothing_before_it_has_watched_for_the_idle_time() -> None:
    model = Model(target=3)
    assert model.quiet(59).target == 3
    assert model.quiet(3).target == 0


def test_a_goal_for_the_first_token_asks_for_more_than_one_for_the_queue() -> None:
    queue, ttft = Model(replace(GOAL, wait_s=3.0)), Model(replace(GOAL, wait_s=3.0, counts_prefill=True))
    load = {"requests": 2, "seconds": 300, "prompt_tokens": 2000}
    assert ttft.arrive(**load).target >= queue.arrive(**load).target


def test_slow_instances_are_found_out_and_more_are_made() -> None:
    model = Model(target=1)
    model.arrive(1, 60)
    assert model.target == 1
    # A tenth of what was believed: they queue up.
    for second in range(60):
        decision = model.after(
            1,
            arrived=model.demand.arrived + 1,
            arrived_tokens=model.demand.arrived_tokens + 100,
            queued=10.0 + second,
            backed_up=model.target,
            waiting_tokens=1000.0 + 100 * second,
            prefilled_tokens=model.demand.prefilled_tokens + 50,
        )
    assert decision.rates.prompt_tokens_per_s < 500
    assert decision.target > 2


SPARE = replace(GOAL, spare=1)


def test_an_idle_model_keeps_its_spare_and_says_why_there_is_one() -> None:
    model = Model(SPARE)
    decision = model.quiet(1)
    assert (decision.target, decision.wanted, decision.reason) == (1, 1, "spare")
    assert (model.quiet(600).target, model.quiet(1).reason) == (1, "enough")
    assert model.hear(1, None).target == 1
    model.target = 0  # As after an upgrade by a config without it.
    assert model.hear(1, None).target == 1


def test_a_spare_is_one_more_than_the_load_asks_for_as_long_as_there_is_room() -> None:
    load = {"requests": 20, "seconds": 200, "prompt_tokens": 100, "output_tokens": 10}
    without, one, six = (Model(replace(GOAL, idle_s=300.0, spare=spare)) for spare in (0, 1, 6))
    needed = without.arrive(**load).target
    assert needed < 7
    assert one.arrive(**load).target == needed + 1
    assert six.arrive(**load).target == GOAL.max


def test_a_spare_is_no_demand_it_neither_begets_another_nor_outlives_the_load() -> None:
    model = Model(SPARE)
    busy = model.arrive(20, 300).target
    # The same load, with the spare there for long: nothing more.
    assert model.arrive(20, 300).target == busy
    assert model.quiet(50).target == busy
    decision = model.quiet(240)
    assert decision.target == 1
    model.target = 3
    assert (model.quiet(1).target, model.scaler.goal.spare) == (1, 1)


def test_the_least_instances_are_spares_as_well() -> None:
    assert Model(replace(GOAL, min=3, spare=2)).quiet(5).target == 3
    model = Model(replace(GOAL, min=1, spare=1))
    assert model.quiet(5).target == 1
    assert model.after(1, running=1, arrived=1).target == 2


counts = st.integers(0, 500).map(float)
tokens = st.integers(0, 10**7).map(float)
samples = st.tuples(
    st.floats(0.1, 40),
    st.one_of(
        st.none(),
        st.builds(
            Demand,
            held=counts,
            queued=counts,
            running=counts,
            waiting_tokens=tokens,
            backed_up=counts,
            prefill_rate=st.sampled_from([0.0, 10.0, 1e5]),
            arrived=counts,
            arrived_tokens=tokens,
            prefilled_tokens=tokens,
            skipped_tokens=tokens,
            finished=counts,
            finished_tokens=tokens,
            output_tokens=tokens,
        ),
    ),
    st.booleans(),
)
growing = (
    "arrived",
    "arrived_tokens",
    "prefilled_tokens",
    "skipped_tokens",
    "finished",
    "finished_tokens",
    "output_tokens",
)


def summed(before: Demand, demand: Demand) -> Demand:
    return replace(demand, **{name: getattr(before, name) + getattr(demand, name) for name in growing})


@given(st.lists(samples, max_size=40), st.integers(0, 3), st.integers(3, 9), st.integers(0, 2), st.integers(0, 12))
def test_whatever_is_reported_the_target_is_in_bounds_and_no_request_is_left_without_an_instance(
    reports: list[tuple[float, Demand | None, bool]], least: int, most: int, spare: int, target: int
) -> None:
    model, before = Model(replace(GOAL, min=least, max=most, spare=spare), target), Demand()
    for seconds, demand, is_whole in reports:
        if demand is not None:
            before = demand = summed(before, demand)
        was = model.target
        decision = model.hear(seconds, demand, is_whole=is_whole)
        assert max(least, spare) <= decision.target <= most
        if demand is None or not is_whole:
            assert decision.target >= min(was, most)
        if demand is not None and demand.under_way:
            assert decision.target >= min(1 + spare, most)


@given(st.lists(samples, max_size=40), st.integers(1, 4))
def test_whatever_is_reported_spares_are_on_top_of_what_there_would_be_without_them(
    reports: list[tuple[float, Demand | None, bool]], spare: int
) -> None:
    without, model, before, now_s = Model(), Model(replace(GOAL, spare=spare), spare), Demand(), 5000.0
    for seconds, demand, is_whole in reports:
        now_s += seconds
        if demand is not None:
            before = demand = summed(before, demand)
        # The same instances work: what is measured of them is the same.
        ready, most = 2, GOAL.max
        plain = without.scaler.decide(now_s, demand, target=without.target, ready=ready, is_whole=is_whole)
        more = model.scaler.decide(now_s, demand, target=model.target, ready=ready, is_whole=is_whole)
        without.target, model.target = plain.target, more.target
        assert more.wanted == min(plain.wanted + spare, most) or demand is None
        assert model.target >= min(without.target + spare, most)


@given(st.lists(samples, min_size=1, max_size=30))
def test_nothing_is_ended_within_the_idle_time_of_having_been_wanted(
    reports: list[tuple[float, Demand | None, bool]],
) -> None:
    model, before, wanted = Model(target=2), Demand(), list[tuple[float, int]]()
    for seconds, demand, is_whole in reports:
        if demand is not None:
            before = demand = summed(before, demand)
        was = model.target
        decision = model.hear(min(seconds, 10), demand, is_whole=is_whole)
        if demand is not None:
            wanted.append((model.now_s, decision.wanted))
        lately = [count for at_s, count in wanted if at_s >= model.now_s - GOAL.idle_s]
        assert decision.target >= min(was, max(lately, default=was))
