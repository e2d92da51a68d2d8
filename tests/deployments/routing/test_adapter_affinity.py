"""Requests for an adapter go where it is loaded, and nobody is overrun for it."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.model_settings import PolicyName
from deployments.routing.adapter_affinity import prefer
from deployments.routing.affinity import load_bound
from deployments.routing.route import Route
from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Load
from engines.errors import AdapterFailed, InstanceLost, NoInstance, QueueFull
from engines.requests import GenerateRequest, Session
from engines.scripted.engine import ScriptedEngine
from tests.deployments.routing.faulty_fleet import FaultyFleet

FACTOR = 1.25


@dataclass
class Server:
    id: str
    load: int = 0
    adapters: tuple[str, ...] = ()
    max_loras: int = 2


servers = st.lists(
    st.builds(
        Server,
        id=st.text("abcdefgh", min_size=1, max_size=4),
        load=st.integers(0, 50),
        adapters=st.lists(st.sampled_from("xyz"), max_size=2, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda server: server.id,
)


def ids(candidates: list[Server], adapter: str = "x") -> list[str]:
    return [server.id for server in prefer(candidates, adapter, FACTOR)]


@given(servers)
def test_always_leaves_somebody_who_does_not_carry_too_much(candidates: list[Server]) -> None:
    bound = load_bound([server.load for server in candidates], FACTOR)
    preferred = prefer(candidates, "x", FACTOR)
    assert preferred
    assert all(server in candidates and server.load < bound for server in preferred)
    loaded = [server for server in candidates if "x" in server.adapters and server.load < bound]
    assert not loaded or preferred == loaded


@given(servers, st.randoms())
def test_every_router_replica_agrees_where_it_is_to_be_loaded(candidates: list[Server], order: object) -> None:
    before = ids(candidates)
    order.shuffle(candidates)  # type: ignore[attr-defined]
    assert sorted(ids(candidates)) == sorted(before)


def test_all_that_have_it_share_the_work() -> None:
    assert ids([Server("a", 1, ("x",)), Server("b", 3, ("x", "y")), Server("c")]) == ["a", "b"]


def test_who_carries_too_much_is_helped_by_another() -> None:
    assert ids([Server("a", 20, ("x",)), Server("b", 1), Server("c", 1)]) in (["b"], ["c"])


def test_an_idle_fleet_does_not_spread_an_adapter() -> None:
    assert ids([Server("a", 3, ("x",)), Server("b"), Server("c")]) == ["a"]


def test_a_free_place_is_taken_before_anything_is_taken_out() -> None:
    full = [Server(id, 0, ("y", "z")) for id in "abcdefg"]
    assert ids([*full, Server("h", 1, ("y",))]) == ["h"]


def test_adapters_spread_over_the_instances() -> None:
    fleet = [Server(id) for id in "abcd"]
    homes = Counter(ids(fleet, f"adapter-{number}")[0] for number in range(400))
    assert all(60 < homes[server.id] < 140 for server in fleet)


@pytest.fixture
async def fleet() -> AsyncIterator[FaultyFleet]:
    made = FaultyFleet()
    yield made
    await made.router.stop(0)


async def routes(fleet: FaultyFleet, *instances: ScriptedEngine | str, **routing: object) -> tuple[Route, Route]:
    """The route to the model, and the one to its adapter."""
    for one in instances:
        engine = one if isinstance(one, ScriptedEngine) else ScriptedEngine(one)
        await fleet.add(engine.name, engine)
    fleet.router = await fleet.serve("m", adapters={"sql": "m"}, **routing)
    return fleet.router.routes["m"], fleet.router.routes["sql"]


def ask(**fields: object) -> GenerateRequest:
    return GenerateRequest.model_validate({"model": "sql", "prompt": "hello"} | fields)


async def engine_of(route: Route, request: GenerateRequest) -> str:
    return (await collect(route.generate(request, Context()))).engine


@pytest.mark.parametrize("policy", ["round_robin", "random", "power_of_two", "least_loaded"])
async def test_whatever_the_policy_it_goes_where_it_is_loaded(fleet: FaultyFleet, policy: PolicyName) -> None:
    base, sql = await routes(fleet, "a", "b", "c", policy=policy)
    fleet.egress("b").load = Load(adapters=("sql",))
    assert {await engine_of(sql, ask()) for _ in range(12)} == {"b"}
    fleet.egress("c").load = Load(adapters=("sql",))
    assert {await engine_of(sql, ask()) for _ in range(40)} == {"b", "c"}
    assert {await engine_of(base, ask()) for _ in range(60)} == {"a", "b", "c"}


async def test_the_models_own_turns_are_not_upset(fleet: FaultyFleet) -> None:
    base, sql = await routes(fleet, "a", "b", "c", policy="round_robin")
    fleet.egress("b").load = Load(adapters=("sql",))
    asked: Counter[str] = Counter()
    for _ in range(9):
        asked[await engine_of(base, ask(model="m"))] += 1
        await engine_of(sql, ask())
    assert asked == {"a": 3, "b": 3, "c": 3}


async def test_nobody_but_the_router_says_which_adapter(fleet: FaultyFleet) -> None:
    """A caller that may ask for the model only must not get an adapter by a field of the request."""
    base, sql = await routes(fleet, "a")
    await engine_of(base, ask(model="m", adapter="sql"))
    await engine_of(sql, ask(model="m", adapter="other"))
    await engine_of(sql, ask(model="alias"))
    assert [(request.model, request.adapter) for request in fleet.engines["a"].requests] == [
        ("m", None),
        ("m", "sql"),
        ("m", "sql"),
    ]
    assert (base.name, sql.name) == ("m", "sql")
    assert [instance.id for instance in sql.instances()] == ["a"]


async def test_a_burst_before_anybody_has_it_goes_to_one(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, "a", "b", "c", "d")
    assert len({await engine_of(sql, ask()) for _ in range(12)}) == 1


async def test_too_much_of_it_spreads(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, "a", "b")
    fleet.egress("a").load = Load(running=30, adapters=("sql",))
    assert await engine_of(sql, ask()) == "b"


async def test_one_who_refuses_is_not_insisted_on(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, ScriptedEngine("a", script=[QueueFull("full")]), "b")
    fleet.egress("a").load = Load(adapters=("sql",))
    assert await engine_of(sql, ask()) == "b"


async def test_a_session_stays_at_home_though_others_have_the_adapter(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, "a", "b", "c")
    session = Session(id="s")
    fleet.egress("b").load = Load(adapters=("sql",))
    assert await engine_of(sql, ask(session=session)) == "b"
    fleet.egress("b").load = Load()
    fleet.egress("c").load = Load(adapters=("sql",))
    assert await engine_of(sql, ask(session=session)) == "b"
    fleet.egress("b").load = Load(running=40)
    assert await engine_of(sql, ask(session=session)) == "c"


async def test_a_hard_session_and_a_named_instance_ask_for_no_preference(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, "a", "b", "c")
    hard = ask(session=Session(id="h", mode="hard"))
    home = await engine_of(sql, hard)
    other = next(id for id in "abc" if id != home)
    fleet.egress(other).load = Load(adapters=("sql",))
    assert await engine_of(sql, hard) == home
    assert await engine_of(sql, ask(instance=home)) == home


async def test_what_needs_no_weights_goes_anywhere(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, "a", "b", policy="round_robin")
    fleet.egress("b").load = Load(adapters=("sql",))
    asked: Counter[str] = Counter()
    for id, egress in (("a", fleet.egress("a")), ("b", fleet.egress("b"))):
        call = egress.call

        async def counted(request: object, context: object, id: str = id, call: object = call) -> object:
            asked[f"{id} {type(request).__name__}"] += 1
            return await call(request, context)  # type: ignore[operator]

        egress.call = counted  # type: ignore[method-assign, assignment]
    for _ in range(4):
        await sql.tokenize(TokenizeRequest(model="sql", prompt="x"))
        await sql.embed(EmbedRequest(model="sql", inputs=["x"]))
    assert asked == {"a TokenizeRequest": 2, "b TokenizeRequest": 2, "b EmbedRequest": 4}


async def test_where_it_cannot_be_loaded_another_instance_is_tried(fleet: FaultyFleet) -> None:
    failing = ScriptedEngine("a", script=lambda request: [AdapterFailed("no") if request.adapter else "hello"])
    base, sql = await routes(fleet, failing, "b")
    assert {await engine_of(sql, ask()) for _ in range(4)} == {"b"}
    assert "a" in {await engine_of(base, ask(instance="a"))}  # It is not left alone for it.
    await fleet.engines["b"].stop()


async def test_where_nobody_can_load_it_the_caller_hears_why(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet, *(ScriptedEngine(id, script=[AdapterFailed("no files")]) for id in "ab"))
    with pytest.raises(AdapterFailed, match="no files"):
        await engine_of(sql, ask())


async def test_the_same_request_for_another_adapter_is_another_request(fleet: FaultyFleet) -> None:
    await routes(fleet, "a")
    fingerprints = {fleet.router.fault_budget.fingerprint(ask(model="m", adapter=name)) for name in (None, "sql", "x")}
    assert len(fingerprints) == 3


async def test_without_instances_it_says_so(fleet: FaultyFleet) -> None:
    _, sql = await routes(fleet)
    assert not sql.ready
    with pytest.raises((NoInstance, InstanceLost)):
        await engine_of(sql, ask())
