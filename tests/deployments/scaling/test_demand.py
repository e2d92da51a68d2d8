from hypothesis import given
from hypothesis import strategies as st

from deployments.scaling.demand import Demand, DemandSum, demand_of

counts = st.integers(0, 10**6).map(float)
demands = st.builds(Demand, *[counts] * 13)


@given(demands)
def test_comes_back_from_what_serve_carries(demand: Demand) -> None:
    assert demand_of(demand.stats("org/m"), "org/m") == demand


def test_a_report_that_says_only_part_of_a_model_says_nothing_of_it() -> None:
    stats = Demand(held=1).stats("m")
    stats.pop("m|held")
    assert demand_of(stats, "m") is None
    assert demand_of({}, "m") is None


def test_what_is_under_way_is_added_up_over_the_routers() -> None:
    total = DemandSum().add(
        {"a": Demand(held=1, queued=2, running=3, waiting_tokens=10, backed_up=1), "b": Demand(held=4, backed_up=7)}
    )
    assert (total.held, total.queued, total.running, total.waiting_tokens, total.backed_up) == (5, 2, 3, 10, 7)


def test_the_first_report_is_the_beginning_however_much_a_router_has_counted() -> None:
    total = DemandSum()
    assert total.add({"a": Demand(arrived=1000)}).arrived == 0
    assert total.add({"a": Demand(arrived=1003)}).arrived == 3


def test_a_router_that_came_later_counts_from_its_start() -> None:
    total = DemandSum()
    total.add({"a": Demand(arrived=10)})
    assert total.add({"a": Demand(arrived=10), "b": Demand(arrived=2)}).arrived == 2


def test_what_a_router_counted_stays_counted_when_it_is_gone() -> None:
    total = DemandSum()
    total.add({"a": Demand(arrived=0), "b": Demand(arrived=0)})
    total.add({"a": Demand(arrived=5), "b": Demand(arrived=5)})
    assert total.add({"b": Demand(arrived=5)}).arrived == 10


@given(st.lists(st.dictionaries(st.sampled_from("abc"), demands, max_size=3), max_size=8))
def test_the_sums_never_fall(reports: list[dict[str, Demand]]) -> None:
    total, last = DemandSum(), Demand()
    for report in reports:
        now = total.add(report)
        assert now.arrived >= last.arrived
        assert now.output_tokens >= last.output_tokens
        last = now
