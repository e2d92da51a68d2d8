import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from actors.channel.frames import SESSIONS, News
from actors.directory.known_instance import InstanceState
from deployments.routing.route import Route
from engines.call_requests import DetokenizeRequest, EmbedRequest, TokenizeRequest
from engines.completion import Collector, collect
from engines.context import Context
from engines.contract import Capabilities, Load
from engines.errors import (
    Cancelled,
    EngineDead,
    EngineFailed,
    EngineFault,
    InstanceLost,
    InstanceNotFound,
    InvalidRequest,
    NoInstance,
    OtherVocabulary,
    Overloaded,
    PenstockError,
    Quarantined,
    QueueFull,
    QueueTimeout,
    Timeout,
    Unsupported,
)
from engines.events import Finished
from engines.operators.migration import Migration
from engines.rendezvous import draw
from engines.requests import GenerateRequest, Sampling, Session, TenantShare
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang, Hold
from engines.sink import Sink
from tests.deployments.routing.faulty_fleet import FaultyFleet
from tests.deployments.waiting import until


def ask(text: str = "hello", **fields: object) -> GenerateRequest:
    return GenerateRequest(**{"model": "m", "prompt": text, **fields})


async def engine_of(route: Route, request: GenerateRequest) -> str:
    return (await collect(route.generate(request, Context()))).engine


@pytest.fixture
async def fleet() -> AsyncIterator[FaultyFleet]:
    yield FaultyFleet()
    # What a test left running belongs to its own loop and ends with it.


async def test_answers_from_an_instance_of_the_model(fleet: FaultyFleet) -> None:
    await fleet.add("a-1", model="a")
    await fleet.add("b-1", model="b")
    router = await fleet.serve("a", "b")
    assert await engine_of(router.routes["a"], ask(model="a")) == "a-1"
    assert await engine_of(router.routes["b"], ask(model="b")) == "b-1"
    assert await engine_of(router.routes["a"], ask(model="alias")) == "a-1"
    # The engine is asked for the model that it serves, whatever the client calls it.
    assert [request.model for request in fleet.engines["a-1"].requests] == ["a", "a"]


async def test_a_burst_spreads_before_any_of_it_is_answered(fleet: FaultyFleet) -> None:
    for id in ("a", "b", "c"):
        await fleet.add(id, ScriptedEngine(id, script=[Hang()]))
    route = await fleet.route()
    contexts = [Context() for _ in range(30)]
    await asyncio.gather(*(route.submit(ask(), context, Collector()) for context in contexts))
    assert {id: len(engine.active) for id, engine in fleet.engines.items()} == {"a": 10, "b": 10, "c": 10}
    assert route.load().running == 30
    for context in contexts:
        context.kill()
    assert route.load().running == 0


async def test_the_load_of_others_counts(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    route = await fleet.route()
    fleet.egress("a").load = Load(running=4, queued=1)
    assert [await engine_of(route, ask()) for _ in range(5)] == ["b"] * 5


async def test_our_own_load_is_not_counted_twice(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[Hang()]))
    route = await fleet.route()
    contexts = [Context() for _ in range(20)]
    for context in contexts[:10]:
        await route.submit(ask(instance="a"), context, Collector())
    fleet.egress("a").load = Load(running=10)  # ours, every one
    for context in contexts[10:]:
        await route.submit(ask(), context, Collector())
    assert {id: len(engine.active) for id, engine in fleet.engines.items()} == {"a": 10, "b": 10}
    for context in contexts:
        context.kill()


async def test_every_choice_counts_as_load(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[Hang()]))
    route = await fleet.route()
    contexts = [Context() for _ in range(11)]
    await route.submit(ask(instance="a", sampling=Sampling(n=10)), contexts[0], Collector())
    for context in contexts[1:]:
        await route.submit(ask(), context, Collector())
    assert {id: len(engine.active) for id, engine in fleet.engines.items()} == {"a": 1, "b": 10}
    for context in contexts:
        context.kill()


async def test_who_waited_long_enough_at_one_instance_does_not_wait_at_the_next(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[QueueTimeout("waited", retry_after_s=3.0)]))
    route = await fleet.route()
    with pytest.raises(QueueTimeout):
        await engine_of(route, ask())
    assert sum(len(engine.requests) for engine in fleet.engines.values()) == 1


async def test_an_instance_that_announced_its_drain_gets_nothing_new(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    route = await fleet.route(policy="round_robin")
    fleet.egress("a").is_draining = True
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b"] * 3


@pytest.mark.parametrize("error", [QueueFull("full"), InstanceLost("lost"), EngineDead("dead")])
async def test_a_refused_request_goes_to_the_next_instance(fleet: FaultyFleet, error: PenstockError) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[error]))
    await fleet.add("b")
    route = await fleet.route(policy="round_robin")
    assert [await engine_of(route, ask()) for _ in range(4)] == ["b"] * 4
    # It was asked once: from then on it is inhibited, or known to be busy.
    assert len(fleet.engines["a"].requests) == 1


async def test_what_no_tokenizer_here_understands_says_so(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[OtherVocabulary("Begun with another tokenizer.")]))
    route = await fleet.route()
    with pytest.raises(OtherVocabulary, match="another tokenizer"):
        await engine_of(route, ask())
    await fleet.add("c")
    await until(lambda: route.open_instances == 3)
    assert await engine_of(route, ask()) == "c"


async def test_an_instance_that_says_it_drains_is_asked_no_more(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    route = await fleet.route(policy="round_robin")
    fleet.draining.add("a")
    assert await engine_of(route, ask()) == "b"
    assert {one.id: one.state for one in route.instances()} == {"a": "draining", "b": "ready"}
    fleet.draining.clear()
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b"] * 3


async def test_an_error_that_would_be_the_same_anywhere_is_not_tried_elsewhere(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[InvalidRequest("no", param="prompt")]))
    route = await fleet.route()
    with pytest.raises(InvalidRequest) as caught:
        await engine_of(route, ask())
    assert caught.value.instance in ("a", "b")
    assert sum(len(engine.requests) for engine in fleet.engines.values()) == 1


async def test_overloaded_when_all_refuse_with_the_shortest_wait(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[QueueFull("full", retry_after_s=3.0)]))
    await fleet.add("b", ScriptedEngine("b", script=[QueueFull("full", retry_after_s=7.0)]))
    route = await fleet.route(wait_s=60)  # is not waited: more instances are not in sight
    for _ in range(2):
        with pytest.raises(Overloaded) as caught:
            await engine_of(route, ask())
        assert caught.value.retry_after_s == 3.0
    assert [len(engine.requests) for engine in fleet.engines.values()] == [2, 2]


async def test_a_stream_error_passes_through(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=["so far", EngineFailed("broke")]))
    await fleet.add("b")
    route = await fleet.route()
    request = ask(instance="a")
    with pytest.raises(EngineFailed):
        await engine_of(route, request)
    assert not fleet.engines["b"].requests


async def test_without_instances_it_says_so(fleet: FaultyFleet) -> None:
    route = await fleet.route()
    with pytest.raises(NoInstance, match="there is none"):
        await engine_of(route, ask())
    assert not route.ready


async def test_without_a_ready_instance_it_says_what_they_do(fleet: FaultyFleet) -> None:
    await fleet.add("a", state=InstanceState.STARTING)
    await fleet.add("b", state=InstanceState.STARTING)
    await fleet.add("c", state=InstanceState.DRAINING)
    route = await fleet.route()
    with pytest.raises(NoInstance, match=r"2 starting since \d s, 1 draining since \d s") as caught:
        await engine_of(route, ask())
    assert caught.value.retry_after_s is not None


async def test_a_request_waits_for_the_first_instance(fleet: FaultyFleet) -> None:
    await fleet.add("a", state=InstanceState.STARTING)
    route = await fleet.route(wait_s=60)
    waiting = asyncio.create_task(engine_of(route, ask()))
    await asyncio.sleep(0)
    fleet.set_state("a", InstanceState.READY)
    assert await waiting == "a"


async def test_what_was_held_waits_on_while_those_held_with_it_fill_the_first_instance(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=60)
    waiting = asyncio.create_task(engine_of(route, ask()))
    await until(lambda: len(fleet.router.held["m"]) == 1)
    await fleet.add("a", ScriptedEngine("a", script=[QueueFull("full", retry_after_s=3.0)]))
    await until(lambda: len(fleet.engines["a"].requests) >= 2)
    assert not waiting.done()
    await fleet.add("b")
    assert await waiting == "b"
    assert len(fleet.router.held["m"]) == 0


async def test_too_many_that_wait_are_refused_at_once(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=60, max_held=1)
    context = Context()
    waiting = asyncio.create_task(route.submit(ask(), context, Collector()))
    await until(lambda: len(fleet.router.held["m"]) == 1)
    assert fleet.router.held["m"].cold_starts == 1
    with pytest.raises(NoInstance, match="too many requests wait for one") as caught:
        await engine_of(route, ask())
    assert caught.value.retry_after_s
    context.kill()
    with pytest.raises(Cancelled):
        await waiting


async def test_the_place_of_who_has_many_goes_to_somebody_else(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=60, max_held=2)
    tenants = [TenantShare(name="greedy"), TenantShare(name="greedy"), TenantShare(name="modest")]
    waiting = []
    for tenant in tenants:
        waiting.append(asyncio.create_task(engine_of(route, ask(tenant=tenant))))
        await asyncio.sleep(0.01)
    with pytest.raises(NoInstance, match="too many"):
        await waiting[1]
    await fleet.add("a")
    assert [await waiting[0], await waiting[2]] == ["a", "a"]


async def test_a_model_sleeps_that_has_no_instance_and_holds_requests(fleet: FaultyFleet) -> None:
    impatient, route = await fleet.route(), await fleet.route(wait_s=60)
    assert (impatient.is_asleep, route.is_asleep, route.ready) == (False, True, False)
    await fleet.add("a", state=InstanceState.STARTING)
    assert route.is_asleep
    fleet.set_state("a", InstanceState.READY)
    await until(lambda: route.ready)
    assert not route.is_asleep


async def test_what_a_model_can_do_is_remembered_while_it_sleeps(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route(wait_s=60)
    known = route.capabilities
    assert known != Capabilities()
    fleet.remove("a")
    await until(lambda: not route.ready)
    assert route.capabilities == known


async def test_nobody_waits_for_an_instance_past_the_deadline(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=600)
    with pytest.raises(NoInstance):
        async with asyncio.timeout(60):
            await route.submit(ask(), Context(deadline_s=time.monotonic() + 0.05), Collector())


async def test_killing_a_request_that_waits(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=60)
    context = Context()
    waiting = asyncio.create_task(route.submit(ask(), context, Collector()))
    await asyncio.sleep(0)
    context.kill()
    with pytest.raises(Cancelled):
        await waiting


async def test_stopping_a_request_that_waits_finishes_it(fleet: FaultyFleet) -> None:
    route = await fleet.route(wait_s=60)
    context, collector = Context(), Collector()
    waiting = asyncio.create_task(route.submit(ask(), context, collector))
    await asyncio.sleep(0)
    context.stop()
    await waiting
    assert (await collector.completion).choices[0].reason == "cancelled"


async def test_direct_dispatch(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    await fleet.add("c", state=InstanceState.STARTING)
    route = await fleet.route()
    assert [await engine_of(route, ask(instance="b")) for _ in range(5)] == ["b"] * 5
    patient = await fleet.route(wait_s=60)  # is not waited: nobody knows of it
    for one in (route, patient):
        with pytest.raises(InstanceNotFound, match="no instance 'nope'") as caught:
            await engine_of(one, ask(instance="nope"))
        assert (caught.value.param, caught.value.status) == ("instance", 404)
    with pytest.raises(NoInstance, match=r"instance c .* 1 starting"):
        await engine_of(route, ask(instance="c"))


async def test_a_lost_egress_inhibits_the_instance_until_it_is_back(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[Hang()]))
    route = await fleet.route(inhibit_s=0.0)
    collector = Collector()
    await route.submit(ask(), Context(), collector)
    fleet.egress("a").lose()
    with pytest.raises(InstanceLost):
        await collector.completion
    with pytest.raises(NoInstance, match=r"not connected|left alone"):
        await engine_of(route, ask())
    await until(lambda: len(fleet.egresses["a"]) == 2 and route.ready)


async def test_an_instance_that_was_lost_must_give_a_token_before_it_is_used_again(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route(inhibit_s=0.0)
    assert not fleet.probes
    fleet.hanging.add("a")
    fleet.egress("a").lose()
    await until(lambda: len(fleet.probes) == 2)
    assert not route.ready
    fleet.hanging.clear()
    await until(lambda: route.ready)


async def test_a_newer_incarnation_is_used_at_once(fleet: FaultyFleet) -> None:
    await fleet.add("a", incarnation=1)
    route = await fleet.route(inhibit_s=1000.0)
    fleet.egress("a").lose()
    await until(lambda: not route.ready)
    await fleet.add("a", ScriptedEngine("a"), incarnation=2)
    await until(lambda: route.ready)
    assert await engine_of(route, ask()) == "a"


async def test_an_unreachable_instance_is_tried_again(fleet: FaultyFleet) -> None:
    fleet.unreachable.add("a")
    await fleet.add("a")
    route = await fleet.route(inhibit_s=0.0)
    await until(lambda: len(fleet.egresses["a"]) == 2)
    assert not route.ready
    fleet.unreachable.clear()
    await until(lambda: route.ready)


async def test_instances_join_and_leave(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route()
    await fleet.add("b")
    await until(lambda: route.open_instances == 2)
    fleet.remove("a")
    await until(lambda: len(route.instances()) == 1)
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b"] * 3
    await until(lambda: not fleet.egress("a").ready)


async def test_what_runs_on_a_vanished_instance_may_end(fleet: FaultyFleet) -> None:
    # A directory that starts anew shows nobody for a moment; streams must not be cut for that.
    engine = await fleet.add("a", ScriptedEngine("a", script=["x", Hang()]))
    route = await fleet.route()
    context, collector = Context(), Collector()
    await route.submit(ask(), context, collector)
    fleet.remove("a")
    await until(lambda: not route.ready)
    await fleet.add("a", engine)
    await until(lambda: route.ready)
    assert fleet.egresses["a"][0].ready
    context.stop()
    assert (await collector.completion).text == "x"
    await until(lambda: not fleet.egresses["a"][0].ready)
    assert fleet.egresses["a"][1].ready


async def test_embeddings_tokens_and_back(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route()
    assert len(await route.embed(EmbedRequest(model="m", inputs=["x", "y"]), Context())) == 2
    tokens = await route.tokenize(TokenizeRequest(model="m", prompt="hi"))
    assert await route.detokenize(DetokenizeRequest(model="m", token_ids=tokens.token_ids)) == "hi"


async def test_what_the_model_cannot_do_is_refused_before_the_engine_sees_it(fleet: FaultyFleet) -> None:
    await fleet.add("g", ScriptedEngine("g", capabilities=Capabilities()), model="generates")
    await fleet.add("e", ScriptedEngine("e", capabilities=Capabilities(generate=False, embed=True)), model="embeds")
    router = await fleet.serve("generates", "embeds")
    with pytest.raises(Unsupported, match="does not make embeddings"):
        await router.routes["generates"].embed(EmbedRequest(model="generates", inputs=["x"]), Context())
    with pytest.raises(Unsupported, match="does not tokenize"):
        await router.routes["embeds"].tokenize(TokenizeRequest(model="embeds", prompt="x"), Context())
    with pytest.raises(Unsupported):
        await engine_of(router.routes["embeds"], ask(model="embeds"))
    assert not fleet.engines["e"].requests


async def test_sessions_stay_on_their_instance_in_every_replica(fleet: FaultyFleet) -> None:
    for id in ("a", "b", "c"):
        await fleet.add(id)
    one, other = await fleet.route(), await fleet.route()
    homes: Counter[str] = Counter()
    for index in range(20):
        request = ask(session=Session(id=f"session {index}"))
        places = {await engine_of(route, request) for route in (one, other, one)}
        assert len(places) == 1
        homes[places.pop()] += 1
    assert len(homes) == 3


async def test_a_hard_session_stays_though_its_instance_refuses(fleet: FaultyFleet) -> None:
    full = [False]

    def script(id: str) -> ScriptedEngine:
        return ScriptedEngine(id, script=lambda _: [QueueFull("full", retry_after_s=4.0)] if full[0] else ["x"])

    await fleet.add("a", script("a"))
    await fleet.add("b", ScriptedEngine("b"))
    route = await fleet.route()
    name = next(name for name in map(str, range(100)) if draw(name, "a") > draw(name, "b"))
    session = Session(id=name, mode="hard")
    assert await engine_of(route, ask(session=session)) == "a"
    full[0] = True
    with pytest.raises(Overloaded) as caught:
        await engine_of(route, ask(session=session))
    assert caught.value.retry_after_s == 4.0
    assert await engine_of(route, ask(session=Session(id=session.id, mode="soft"))) == "b"


async def test_a_hard_session_waits_for_an_unreachable_instance_and_leaves_a_draining_one(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route(inhibit_s=1000.0)
    request = ask(session=Session(id="s", mode="hard"))
    assert await engine_of(route, request) == "a"
    await fleet.add("b")
    await until(lambda: route.open_instances == 2)
    fleet.egress("a").lose()
    await until(lambda: route.open_instances == 1)
    with pytest.raises(NoInstance, match="holds the session"):
        await engine_of(route, request)
    fleet.set_state("a", InstanceState.DRAINING)
    await until(lambda: route.instances()[0].state is InstanceState.DRAINING)
    assert await engine_of(route, request) == "b"


async def test_a_hard_session_does_not_split_while_its_first_request_waits(fleet: FaultyFleet) -> None:
    newcomer, first = sorted(("a", "b"), key=lambda id: draw("s", id), reverse=True)
    await fleet.add(first, ScriptedEngine(first, script=[Hold(hold_s=0.1), "x"]))
    route = await fleet.route()
    request = ask(session=Session(id="s", mode="hard"))
    waiting = asyncio.create_task(engine_of(route, request))
    await until(lambda: fleet.engines[first].requests)
    # It would win the session, had it been there before.
    await fleet.add(newcomer)
    await until(lambda: route.open_instances == 2)
    assert await engine_of(route, request) == first
    assert await waiting == first


async def test_a_hard_session_that_nobody_took_is_free_again(fleet: FaultyFleet) -> None:
    last, first = sorted(("a", "b"), key=lambda id: draw("s", id))
    await fleet.add(first, ScriptedEngine(first, script=[QueueFull("full")]))
    await fleet.add(last)
    route = await fleet.route()
    assert await engine_of(route, ask(session=Session(id="s", mode="hard"))) == last
    context = Context()
    await fleet.add("c", ScriptedEngine("c", script=[Hold(hold_s=60)]))
    await until(lambda: route.open_instances == 3)
    cancelled = asyncio.ensure_future(route.submit(ask(session=Session(id="t"), instance="c"), context, Collector()))
    affinity = route._picker.affinity
    await until(lambda: affinity.bound("t") == "c")
    cancelled.cancel()
    await until(lambda: affinity.bound("t") is None)


async def test_a_session_goes_where_another_replica_bound_it(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    route = await fleet.route()
    home, loser = sorted(("a", "b"), key=lambda id: draw("s", id), reverse=True)
    request = ask(session=Session(id="s", mode="hard"))
    assert await engine_of(route, request) == home
    fleet.egress(loser).hear(News("what nobody knows"))
    fleet.egress(loser).hear(News(SESSIONS, [("s", 0.0), ("t", 3.0)]))
    assert await engine_of(route, request) == loser


async def test_sticky_off_ignores_sessions(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b")
    route = await fleet.route(policy="round_robin", sticky={"mode": "off"})
    request = ask(session=Session(id="s"))
    assert [await engine_of(route, request) for _ in range(4)] == ["a", "b", "a", "b"]


async def test_a_session_is_leased_while_a_stream_of_it_runs(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[Hang()]))
    route = await fleet.route(sticky={"idle_s": 0.001})
    affinity = route._picker.affinity
    context, collector = Context(), Collector()
    await route.submit(ask(session=Session(id="s")), context, collector)
    await asyncio.sleep(0.01)
    assert affinity.bound("s") == "a"
    context.stop()
    assert isinstance(await collector.completion, object)
    await asyncio.sleep(0.01)
    assert affinity.bound("s") is None


async def test_unhealthy_when_it_no_longer_hears_of_instances(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    route = await fleet.route()
    await route.check_health()
    fleet.fall_silent(ConnectionError("gone"))
    await until(lambda: route._members._watcher.done())
    with pytest.raises(RuntimeError):
        await route.check_health()
    assert await engine_of(route, ask()) == "a"  # the last view still serves


async def test_stop_lets_streams_end_and_closes_the_links(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[Hang()]))
    route = await fleet.route()
    context, collector = Context(), Collector()
    await route.submit(ask(), context, collector)
    stopping = asyncio.create_task(fleet.router.stop(60))
    await asyncio.sleep(0)
    assert fleet.egress("a").ready
    context.stop()
    await stopping
    assert isinstance(await collector.completion, object)
    assert not fleet.egress("a").ready


async def test_a_model_is_an_engine(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.add("b", state=InstanceState.STARTING)
    route = await fleet.route()
    assert route.name == "m" and route.open_instances == 1
    assert route.capabilities.embed
    assert route.ready
    assert {instance.id for instance in route.instances()} == {"a", "b"}
    events = [event async for event in route.generate(ask(), Context())]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("is_silent", [False, True])
async def test_a_request_that_kills_takes_three_instances_and_then_no_more(fleet: FaultyFleet, is_silent: bool) -> None:
    """Also where it is known only later that those that fell silent are dead."""
    poison = ask("poison")
    tried: list[str] = []

    class Dying(ScriptedEngine):
        async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
            if request.prompt == "poison":
                tried.append(self.name)
                fleet.unreachable.add(self.name)
                fleet.egress(self.name).lose(request, is_dead=not is_silent)
                raise InstanceLost("died")
            await super().submit(request, context, sink)

    for number in range(6):
        await fleet.add(f"i-{number}", Dying(f"i-{number}"))
    route = await fleet.route(inhibit_s=0.2)
    with pytest.raises(EngineFault):
        await engine_of(route, poison)
    assert len(tried) == 3
    for _ in range(10):
        with pytest.raises(Quarantined):
            await engine_of(route, poison)
    assert len(tried) == 3
    assert await engine_of(route, ask("bystander")) not in tried


async def test_who_is_convicted_is_answered_when_the_other_routers_know(
    fleet: FaultyFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows = asyncio.Event()
    told: list[str] = []

    async def convict(fingerprint: str) -> None:
        told.append(fingerprint)
        await knows.wait()

    class Dying(ScriptedEngine):
        async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
            fleet.egress(self.name).lose(request)
            raise InstanceLost("died")

    monkeypatch.setattr(fleet, "convict", convict)
    for id in ("a", "b", "c"):
        await fleet.add(id, Dying(id))
    route = await fleet.route(inhibit_s=60)
    asked = asyncio.create_task(engine_of(route, ask("poison")))
    await until(lambda: bool(told))
    await asyncio.sleep(0)
    assert not asked.done()
    knows.set()
    with pytest.raises(EngineFault):
        await asked


async def test_two_suspects_are_never_tried_on_one_instance(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id, ScriptedEngine(id, script=[Hang()]))
    route = await fleet.route(policy="round_robin")
    suspects = [ask("one"), ask("two"), ask("three")]
    for id in ("x", "y"):
        fleet.router.fault_budget.lost(id, "", suspects, is_dead=True)
    contexts = [Context() for _ in suspects]
    for suspect, context in zip(suspects[:2], contexts, strict=False):
        await route.submit(suspect, context, Collector())
    assert {id: len(engine.active) for id, engine in fleet.engines.items()} == {"a": 1, "b": 1}
    waiting = asyncio.ensure_future(route.submit(suspects[2], contexts[2], Collector()))
    await asyncio.wait([waiting], timeout=0.2)
    assert not waiting.done()
    contexts[0].kill()
    await waiting
    for context in contexts:
        context.kill()


async def test_the_neighbours_of_a_lost_instance_come_last_until_they_are_heard_of(fleet: FaultyFleet) -> None:
    for id, node in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        await fleet.add(id, node=node)
    route = await fleet.route(policy="round_robin", inhibit_s=60)
    fleet.egress("a1").lose()
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b1"] * 3
    fleet.egress("a2").spoke_s = time.monotonic()
    assert {await engine_of(route, ask()) for _ in range(3)} == {"a2", "b1"}


async def test_an_instance_whose_engine_takes_no_step_comes_last(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id)
    route = await fleet.route(policy="round_robin")
    fleet.egress("a").is_stalled = True
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b"] * 3
    fleet.egress("b").is_stalled = True
    assert {await engine_of(route, ask()) for _ in range(3)} == {"a", "b"}


async def test_an_instance_on_which_a_stream_stalled_is_left_alone_for_a_while(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id)
    route = await fleet.route(policy="round_robin", inhibit_s=60)
    fleet.egress("a").listener.stalled(Timeout("stall", 30.0))
    assert [await engine_of(route, ask()) for _ in range(3)] == ["b"] * 3


async def test_an_instance_that_falls_silent_and_comes_back_did_not_die(fleet: FaultyFleet) -> None:
    await fleet.add("a")
    await fleet.route(inhibit_s=0.0)
    for deaths in range(3):
        before = fleet.egress("a")
        before.lose(ask("innocent"), is_dead=False)
        await until(lambda egress=before: fleet.egress("a") is not egress and fleet.egress("a").ready)
        assert not fleet.router.fault_budget.is_watching, deaths


async def test_an_instance_that_falls_silent_for_good_died(fleet: FaultyFleet) -> None:
    for id in ("a", "b"):
        await fleet.add(id)
    await fleet.route(inhibit_s=0.0)
    for id in ("a", "b"):
        fleet.unreachable.add(id)
        fleet.egress(id).lose(ask("poison"), is_dead=False)
    await until(lambda: fleet.router.fault_budget.is_watching)


async def test_a_stream_of_an_engine_without_ids_is_not_said_twice_beside_a_model_that_has_them(
    fleet: FaultyFleet,
) -> None:
    script = ["one ", "two ", InstanceLost("gone"), "three"]
    without = Capabilities(resume=False)
    # As a remote engine, which takes no notice of what was said before.
    forgetful = [["one ", "two ", InstanceLost("gone")], ["one ", "two ", "three"]]
    for number in (1, 2):
        engine = ScriptedEngine(f"old-{number}", script=lambda _: forgetful.pop(0), capabilities=without)
        await fleet.add(f"old-{number}", engine, model="old")
        await fleet.add(f"new-{number}", ScriptedEngine(f"new-{number}", script=script), model="new")
    router = await fleet.serve("old", "new")
    assert [route.capabilities.resume for route in router.routes.values()] == [False, True]
    for model, route in router.routes.items():
        request = ask(model=model, sampling=Sampling(temperature=0.0))
        assert (await collect(Migration().around(route).generate(request, Context()))).text == "one two three"


async def test_the_trial_of_a_request_whose_caller_leaves_before_it_starts_is_over(fleet: FaultyFleet) -> None:
    await fleet.add("a", ScriptedEngine("a", script=[Hold(hold_s=60.0)]))
    route = await fleet.route()
    suspect = ask("suspect")
    for id in ("x", "y"):
        fleet.router.fault_budget.lost(id, "", [suspect], is_dead=True)
    submitting = asyncio.ensure_future(route.submit(suspect, Context(), Collector()))
    await until(lambda: fleet.router.fault_budget.has_trial("a"))
    submitting.cancel()
    await asyncio.wait([submitting])
    assert not fleet.router.fault_budget.has_trial("a")
