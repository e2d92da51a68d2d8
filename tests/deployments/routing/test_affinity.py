from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.model_settings import StickySettings
from deployments.routing.affinity import FREE_LOAD, Affinity, load_bound
from engines.rendezvous import draw
from tests.clock import Clock
from tests.deployments.routing.candidates import Server, servers

sessions = st.text(min_size=1, max_size=20)
modes = st.sampled_from(["soft", "hard"])


def affinity(clock: Clock | None = None, **settings: object) -> Affinity:
    return Affinity(StickySettings(**settings), clock or Clock())


def place(some: Affinity, session: str, candidates: list[Server], mode: str = "soft") -> str:
    return some.choose(session, mode, candidates, {server.id for server in candidates}).id


def test_the_weight_is_the_same_in_every_process() -> None:
    # A change of the hash moves every session of a fleet whose routers are upgraded one after another.
    assert draw("session", "demo-0f3a") == 17491348232389463722
    assert draw("ab", "c") != draw("a", "bc")


@given(candidates=servers, session=sessions, mode=modes)
def test_replicas_agree_without_talking(candidates: list[Server], session: str, mode: str) -> None:
    first, second = affinity(), affinity()
    assert place(first, session, candidates, mode) == place(second, session, candidates[::-1], mode)


def test_sessions_spread_over_the_instances() -> None:
    some = affinity()
    candidates = [Server(id) for id in "abcd"]
    placed = Counter(place(some, f"session {index}", candidates, "hard") for index in range(2000))
    assert all(400 < placed[server.id] < 600 for server in candidates)


@given(candidates=servers, names=st.lists(sessions, min_size=1, max_size=30, unique=True))
def test_an_instance_that_joins_moves_only_what_it_wins(candidates: list[Server], names: list[str]) -> None:
    some = affinity()
    before = {name: place(some, name, candidates[1:], "hard") for name in names if len(candidates) > 1}
    for name, home in before.items():
        assert place(some, name, candidates, "hard") in (home, candidates[0].id)


@given(candidates=servers, names=st.lists(sessions, min_size=1, max_size=30, unique=True), mode=modes)
def test_an_instance_that_leaves_moves_only_what_it_held(candidates: list[Server], names: list[str], mode: str) -> None:
    for server in candidates:
        server.load = 0
    some = affinity()
    homes = {name: place(some, name, candidates, mode) for name in names}
    for name, home in homes.items():
        some.lease(name, home).release()
    rest = candidates[1:]
    for name, home in homes.items():
        if rest and home != candidates[0].id:
            assert place(some, name, rest, mode) == home


@given(candidates=servers, count=st.integers(1, 300))
def test_soft_placement_keeps_every_load_within_the_bound(candidates: list[Server], count: int) -> None:
    some = affinity()
    for server in candidates:
        server.load = 0
    for index in range(count):
        home = place(some, f"session {index}", candidates)
        next(server for server in candidates if server.id == home).load += 1
        loads = [server.load for server in candidates]
        assert max(loads) <= max(FREE_LOAD, 1.25 * sum(loads) / len(loads) + 1)


@given(loads=st.lists(st.integers(0, 1000), min_size=1), load_factor=st.floats(1.001, 4))
def test_somebody_is_always_under_the_bound(loads: list[int], load_factor: float) -> None:
    assert min(loads) < load_bound(loads, load_factor)


def test_a_bound_session_stays_when_a_better_placed_instance_joins() -> None:
    some = affinity()
    old = [Server("a")]
    new = next(id for id in (f"new-{index}" for index in range(100)) if draw("s", id) > draw("s", "a"))
    some.lease("s", place(some, "s", old)).release()
    for mode in ("soft", "hard"):
        assert place(some, "s", [*old, Server(new)], mode) == "a"
        assert place(some, "another replica's view", [Server(new)], mode) == new


def test_soft_gives_way_to_load_and_hard_does_not() -> None:
    some = affinity()
    candidates = [Server("a", load=20), Server("b")]
    some.lease("s", "a").release()
    assert place(some, "s", candidates) == "b"
    assert place(some, "s", candidates, "hard") == "a"


def test_a_few_parallel_requests_stay_together_on_an_idle_fleet() -> None:
    some = affinity()
    some.lease("s", "a").release()
    assert place(some, "s", [Server("a", load=FREE_LOAD - 1), Server("b"), Server("c")]) == "a"


def test_hard_waits_for_an_instance_that_cannot_take_it_now() -> None:
    some = affinity()
    some.lease("s", "a").release()
    assert some.choose("s", "hard", [Server("b")], {"a", "b"}) is None
    assert some.choose("s", "soft", [Server("b")], {"a", "b"}).id == "b"


def test_hard_moves_when_the_instance_is_gone_and_stays_where_it_went() -> None:
    some = affinity()
    some.lease("s", "a").release()
    assert some.choose("s", "hard", [Server("b")], {"b"}).id == "b"
    some.lease("s", "b").release()
    assert some.choose("s", "hard", [Server("a"), Server("b")], {"a", "b"}).id == "b"


def test_an_idle_session_is_forgotten_and_a_running_one_is_not() -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    some.lease("idle", "a").release()
    running = some.lease("running", "b")
    clock.now_s += 10
    assert some.bound("idle") is None
    assert some.bound("running") == "b"
    running.release()
    clock.now_s += 9
    assert some.bound("running") == "b"
    clock.now_s += 1
    assert some.bound("running") is None
    assert len(some) == 0


def test_a_session_is_leased_until_its_last_request_ends() -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    first, second = some.lease("s", "a"), some.lease("s", "a")
    first.release()
    first.release()  # twice does no harm
    clock.now_s += 100
    assert some.bound("s") == "a"
    second.release()
    clock.now_s += 10
    assert some.bound("s") is None


def test_a_dispatch_binds_at_once_and_not_any_more_when_it_failed() -> None:
    some = affinity()
    loser = min("ab", key=lambda id: draw("s", id))
    first = some.reserve("s", loser)
    # What comes meanwhile goes there, too, whatever the hash says.
    assert place(some, "s", [Server("a"), Server("b")], "hard") == loser
    second = some.reserve("s", loser)
    first.release()
    assert some.bound("s") == loser
    second.release()
    assert (some.bound("s"), len(some)) == (None, 0)


def test_one_that_was_taken_binds_for_those_that_were_not() -> None:
    some = affinity()
    first, second = some.reserve("s", "a"), some.reserve("s", "a")
    first.keep()
    first.release()
    second.release()
    second.keep()  # Too late does no harm.
    assert some.bound("s") == "a"


def test_a_failed_dispatch_leaves_the_session_where_it_was() -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    some.lease("s", "a").release()
    clock.now_s += 4
    some.reserve("s", "b").release()
    assert some.bound("s") == "a"
    clock.now_s += 6
    assert some.bound("s") is None


def test_a_failed_dispatch_does_not_move_what_runs_elsewhere() -> None:
    some = affinity()
    running = some.lease("s", "a")
    moving = some.reserve("s", "b")
    assert some.bound("s") == "b"
    moving.release()
    assert some.bound("s") == "a"
    moved = some.reserve("s", "b")
    moved.keep()
    running.release()
    assert some.bound("s") == "b"
    moved.release()
    assert some.bound("s") == "b"


def test_what_is_heard_while_a_dispatch_is_open_holds_when_it_fails() -> None:
    some = affinity()
    trying = some.reserve("s", "a")
    some.hear("s", "b", idle_s=0)
    assert some.bound("s") == "a"
    trying.release()
    assert some.bound("s") == "b"


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["reserve", "keep", "release", "hear"]), st.integers(0, 9), st.sampled_from("abc")),
        max_size=40,
    )
)
def test_no_order_of_dispatches_leaves_anything_behind(steps: list[tuple[str, int, str]]) -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    leases = []
    for step, pick, instance in steps:
        clock.now_s += 0.1
        if step == "reserve":
            leases.append(some.reserve("s", instance))
        elif step == "hear":
            some.hear("s", instance, idle_s=0)
        elif leases:
            getattr(leases[pick % len(leases)], step)()
    for lease in leases:
        lease.release()
    clock.now_s += 20
    assert (some.bound("s"), len(some)) == (None, 0)


def test_what_another_replica_bound_is_bound_here() -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    loser = min("abc", key=lambda id: draw("s", id))
    some.hear("s", loser, idle_s=4)
    for mode in ("soft", "hard"):
        assert place(some, "s", [Server(id) for id in "abc"], mode) == loser
    clock.now_s += 6
    assert some.bound("s") is None
    some.hear("s", loser, idle_s=10)
    assert some.bound("s") is None


def test_of_two_instances_the_one_that_served_a_session_last_holds_it() -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    some.hear("s", "b", idle_s=1)
    some.hear("s", "a", idle_s=2)
    assert some.bound("s") == "b"
    running = some.lease("s", "c")
    some.hear("s", "a", idle_s=0)
    assert some.bound("s") == "c"
    running.release()
    clock.now_s += 1
    some.hear("s", "a", idle_s=0)
    assert some.bound("s") == "a"


@given(heard=st.lists(st.tuples(sessions, st.floats(0, 20)), max_size=30))
def test_what_was_heard_expires_in_time_in_whatever_order_it_came(heard: list[tuple[str, float]]) -> None:
    clock = Clock()
    some = affinity(clock, idle_s=10)
    latest: dict[str, float] = {}
    for session, idle_s in heard:
        some.hear(session, "a", idle_s)
        latest[session] = min(idle_s, latest.get(session, idle_s))
    clock.now_s += 5
    assert {session for session in latest if some.bound(session)} == {
        session for session, idle_s in latest.items() if idle_s < 5
    }


def test_the_table_is_bounded_and_forgets_the_longest_idle() -> None:
    some = Affinity(StickySettings(), Clock(), max_idle=2)
    held = some.lease("held", "a")
    for name in ("one", "two", "three"):
        some.lease(name, "a").release()
    assert [some.bound(name) for name in ("held", "one", "two", "three")] == ["a", None, "a", "a"]
    held.release()
    assert len(some) == 2
