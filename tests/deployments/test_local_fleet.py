import pytest

from deployments.local_fleet import LocalFleet
from engines.completion import collect
from engines.context import Context
from engines.errors import InstanceLost, ModelNotFound, Overloaded, QueueFull
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine


async def engine_of(fleet: LocalFleet, model: str = "demo") -> str:
    request = GenerateRequest(model=model, prompt="p")
    return (await collect(fleet.find(model).engine.generate(request, Context()))).engine


async def test_a_model_answers_under_its_name_and_its_alias() -> None:
    engines = {"demo": [ScriptedEngine("a")], "other": [ScriptedEngine("b")], "none": []}
    fleet = LocalFleet(engines, {"alias": "demo"})
    await fleet.start()
    assert [await engine_of(fleet, model) for model in ("demo", "alias", "other")] == ["a", "a", "b"]
    with pytest.raises(ModelNotFound) as caught:
        fleet.find("nope")
    assert caught.value.served == ("demo", "alias", "other", "none")
    await fleet.stop()


async def test_a_full_engine_is_passed_over() -> None:
    full = [ScriptedEngine(name, script=[QueueFull("Full.", retry_after_s=s)]) for name, s in (("a", 5), ("b", 2))]
    fleet = LocalFleet(
        {"demo": [*full, ScriptedEngine("c")], "full": [ScriptedEngine("d", script=[QueueFull("Full.")])]}
    )
    await fleet.start()
    assert [await engine_of(fleet) for _ in range(3)] == ["c"] * 3
    with pytest.raises(Overloaded):
        await engine_of(fleet, "full")
    await fleet.stop()


async def test_operators_are_around_the_instances_of_each_model() -> None:
    script = ["one ", InstanceLost("gone"), "two"]
    engines = [ScriptedEngine(name, script=script) for name in ("a", "b")]
    fleet = LocalFleet({"demo": engines}, operators=lambda route: link(Migration(), route))
    await fleet.start()
    request = GenerateRequest(model="demo", prompt="p")
    assert (await collect(fleet.find("demo").engine.generate(request, Context()))).text == "one two"
    await fleet.stop()


async def test_ready_needs_one_engine_of_every_model() -> None:
    a, b, c = (ScriptedEngine(name) for name in "abc")
    fleet = LocalFleet({"one": [a, b], "two": [c]})
    await a.start()
    assert not fleet.ready
    await fleet.start()
    assert fleet.ready
    assert [(card.name, card.ready, card.instances) for card in fleet.cards()] == [("one", 2, 2), ("two", 1, 1)]
    assert {instance.id for instance in fleet.instances()} == {"a", "b", "c"}
    await c.stop()
    assert not fleet.ready and [card.ready for card in fleet.cards()] == [2, 0]
    await fleet.stop()
