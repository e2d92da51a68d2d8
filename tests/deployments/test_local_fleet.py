import pytest

from deployments.local_fleet import LocalFleet
from engines.completion import Collector, collect
from engines.context import Context
from engines.errors import InstanceNotFound, InvalidRequest, ModelNotFound, Overloaded, QueueFull
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine


async def fleet_of(*engines: ScriptedEngine) -> LocalFleet:
    fleet = LocalFleet({"demo": engines}, {"alias": "demo"})
    await fleet.start()
    return fleet


async def answer(fleet: LocalFleet, model: str = "demo", instance: str | None = None) -> str:
    return (
        await collect(fleet.generate(GenerateRequest(model=model, prompt="p", instance=instance), Context()))
    ).engine


async def test_engines_take_turns() -> None:
    fleet = await fleet_of(ScriptedEngine("a", script=["x"]), ScriptedEngine("b", script=["x"]))
    assert [await answer(fleet, model) for model in ("demo", "alias", "demo", "demo")] == ["a", "b", "a", "b"]


async def test_a_full_engine_is_passed_over() -> None:
    fleet = await fleet_of(ScriptedEngine("a", script=[QueueFull("Full.")]), ScriptedEngine("b", script=["x"]))
    assert [await answer(fleet) for _ in range(3)] == ["b", "b", "b"]


async def test_when_all_are_full_the_shortest_wait_is_named() -> None:
    full = [ScriptedEngine(name, script=[QueueFull("Full.", retry_after_s=s)]) for name, s in (("a", 5), ("b", 2))]
    with pytest.raises(Overloaded) as caught:
        await answer(await fleet_of(*full))
    assert caught.value.retry_after_s == 2


async def test_a_wrong_request_is_wrong_everywhere() -> None:
    engines = [ScriptedEngine("a", script=[InvalidRequest("No.")]), ScriptedEngine("b", script=["x"])]
    fleet = await fleet_of(*engines)
    with pytest.raises(InvalidRequest) as caught:
        await answer(fleet)
    assert caught.value.instance == "a"
    assert engines[1].requests == []


async def test_an_instance_by_name() -> None:
    fleet = await fleet_of(ScriptedEngine("a", script=["x"]), ScriptedEngine("b", script=["x"]))
    assert [await answer(fleet, instance="b") for _ in range(3)] == ["b"] * 3
    with pytest.raises(InstanceNotFound):
        await answer(fleet, instance="c")


async def test_what_is_not_served_is_said() -> None:
    fleet = await fleet_of(ScriptedEngine("a"))
    with pytest.raises(ModelNotFound, match="Served: demo"):
        await fleet.submit(GenerateRequest(model="nope", prompt="p"), Context(), Collector())


async def test_ready_needs_one_engine_of_every_model() -> None:
    a, b, c = (ScriptedEngine(name) for name in "abc")
    fleet = LocalFleet({"one": [a, b], "two": [c]})
    await a.start()
    assert not fleet.ready
    await c.start()
    assert fleet.ready
    assert [(card.name, card.ready, card.instances) for card in fleet.models()] == [("one", 1, 2), ("two", 1, 1)]
