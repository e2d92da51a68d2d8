from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.routing.held_requests import Held, HeldRequests
from engines.errors import NoInstance


def test_counts_what_waits_until_it_does_not() -> None:
    held = HeldRequests("m", 10, 1000)
    with held.hold("", 10), held.hold("a", 10):
        assert len(held) == 2
    assert len(held) == 0


def test_one_too_many_is_refused_and_told_to_come_again() -> None:
    held = HeldRequests("m", 2, 1000)
    with held.hold("", 10), held.hold("", 10):
        with pytest.raises(NoInstance, match="too many requests wait") as caught, held.hold("", 10):
            pass
        assert caught.value.retry_after_s
        assert len(held) == 2


def test_bytes_are_bounded_too() -> None:
    held = HeldRequests("m", 10, 100)
    with held.hold("", 60), pytest.raises(NoInstance), held.hold("", 60):
        pass
    with pytest.raises(NoInstance), held.hold("", 101):
        pass


def test_the_newest_of_who_holds_most_gives_way_to_another_tenant() -> None:
    held = HeldRequests("m", 3, 1000)
    woken = []
    with ExitStack() as places:
        greedy = [places.enter_context(held.hold("greedy", 1)) for _ in range(3)]
        greedy[2].wake = woken.append
        modest = places.enter_context(held.hold("modest", 1))
        assert [one.gives_way for one in (*greedy, modest)] == [False, False, True, False]
        assert len(woken) == 1
        assert len(held) == 3
    assert len(held) == 0


def test_tenants_with_as_much_do_not_push_one_another_out() -> None:
    held = HeldRequests("m", 2, 1000)
    with held.hold("a", 1), held.hold("b", 1), pytest.raises(NoInstance), held.hold("a", 1):
        pass


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 50), st.booleans()), max_size=60))
def test_whoever_comes_and_goes_the_bounds_hold_and_the_counts_are_right(
    steps: list[tuple[str, int, bool]],
) -> None:
    held = HeldRequests("m", 6, 120)
    places: list[tuple[ExitStack, Held]] = []
    for tenant, size, leaves in steps:
        if leaves and places:
            places.pop(0)[0].close()
        else:
            stack = ExitStack()
            with suppress(NoInstance):
                places.append((stack, stack.enter_context(held.hold(tenant, size))))
        staying = [one for _, one in places if not one.gives_way]
        assert len(held) == len(staying) <= 6
        assert sum(one.bytes for one in staying) <= 120
    for stack, _ in places:
        stack.close()
    assert len(held) == 0
