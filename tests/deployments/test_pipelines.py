"""Models as a fleet file makes them: with the operators that it names, and of other models."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.fleet import Fleet, Model
from deployments.fleet_settings import FleetSettings
from deployments.local_fleet import LocalFleet
from deployments.pipelines import build_models
from deployments.routing.route import Route
from engines.completion import Completion, collect
from engines.context import Context
from engines.errors import AdapterFailed, CircuitOpen, InstanceLost, InvalidRequest, NoInstance
from engines.operators.attachments import Attachments
from engines.operators.breaker import Breaker
from engines.operators.migration import Migration
from engines.operators.operator import Operator
from engines.operators.pool import Pool
from engines.operators.retry import Retry
from engines.operators.timeout import Timeouts
from engines.requests import GenerateRequest, Session
from engines.scripted.engine import ScriptedEngine


class Built:
    """The models of a fleet file over engines of this process, and what their operators reported."""

    def __init__(self, file: dict[str, Any], engines: dict[str, list[ScriptedEngine]]) -> None:
        adapters = {adapter["name"]: model["name"] for model in file["models"] for adapter in model.get("adapters", ())}
        self.local = LocalFleet(engines, adapters=adapters)
        self.reports: list[tuple[str, Any]] = []
        routes = {model.name: model.source for model in self.local.models if isinstance(model.source, Route)}
        settings = FleetSettings.model_validate(file)
        models = build_models(settings, routes, lambda model, said: self.reports.append((model, said)))
        self.models: dict[str, Model] = {model.name: model for model in models}
        self.fleet = Fleet("built", self.local._router, models)

    async def ask(self, model: str, session: str | None = None) -> Completion:
        named = Session(id=session) if session is not None else None
        request = GenerateRequest(model=model, prompt="p", session=named)
        return await collect(self.fleet.find(model).engine.generate(request, Context()))


@asynccontextmanager
async def built(models: Sequence[dict[str, Any]], **engines: list[ScriptedEngine]) -> AsyncIterator[Built]:
    instances = [{"engine": "scripted"} | model for model in models if not {"fallback", "pool"} & set(model)]
    others = [model for model in models if {"fallback", "pool"} & set(model)]
    built = Built({"models": [*instances, *others]}, engines)
    await built.local.start()
    try:
        yield built
    finally:
        await built.local.stop()


def chain(engine: Any) -> list[type]:
    kinds = []
    while isinstance(engine, Operator):
        kinds.append(type(engine))
        engine = engine.inner
    return [*kinds, type(engine)]


async def test_instances_have_migration_around_them_unless_the_file_says_otherwise() -> None:
    pipeline = [{"retry": {"attempts": 5}}, {"timeout": {"first_event_s": 9}}, "breaker", "migration"]
    models = [{"name": "a"}, {"name": "b", "pipeline": pipeline}, {"name": "c", "pipeline": []}]
    async with built(models, a=[], b=[], c=[]) as fleet:
        chains = {name: chain(model.engine) for name, model in fleet.models.items()}
        assert chains == {
            "a": [Attachments, Migration, Route],
            "b": [Attachments, Retry, Timeouts, Breaker, Migration, Route],
            "c": [Attachments, Route],
        }
        around = fleet.models["b"].engine
        assert isinstance(around, Attachments)
        retry = around.inner
        assert isinstance(retry, Retry) and retry.options.attempts == 5


async def test_what_an_operator_does_is_reported_under_its_models_name() -> None:
    script = ["one ", InstanceLost("gone"), "two"]
    engines = [ScriptedEngine(name, script=script) for name in ("a-1", "a-2")]
    async with built([{"name": "a"}], a=engines) as fleet:
        assert (await fleet.ask("a")).text == "one two"
        assert [(model, said.outcome) for model, said in fleet.reports] == [("a", "continued")]


async def test_a_model_may_be_a_fallback_of_others_and_comes_back_to_the_first() -> None:
    first, second = ScriptedEngine("a-1", script=["first"]), ScriptedEngine("b-1", script=["second"])
    models = [{"name": "a"}, {"name": "b", "aliases": ["bee"]}, {"name": "both", "fallback": ["a", "bee"]}]
    async with built(models, a=[first], b=[second]) as fleet:
        answer = await fleet.ask("both", session="s")
        assert (answer.text, answer.model, answer.engine) == ("first", "a", "a-1")
        await first.stop()
        answer = await fleet.ask("both", session="s")
        assert (answer.text, answer.model) == ("second", "b")
        card = fleet.models["both"].card()
        assert (card.ready, card.instances) == (1, 2) and fleet.models["both"].instances() == ()
        await first.start()
        assert (await fleet.ask("both", session="s")).text == "first"


async def test_a_wrong_request_is_not_taken_to_the_fallback() -> None:
    first, second = ScriptedEngine("a-1", script=[InvalidRequest("no")]), ScriptedEngine("b-1")
    models = [{"name": "a"}, {"name": "b"}, {"name": "both", "fallback": ["a", "b"]}]
    async with built(models, a=[first], b=[second]) as fleet:
        with pytest.raises(InvalidRequest):
            await fleet.ask("both")
        assert not second.requests


async def test_a_model_may_be_a_pool_of_others_and_those_made_of_more() -> None:
    models = [
        {"name": "a"},
        {"name": "b"},
        {"name": "c"},
        {"name": "mix", "pool": [{"model": "a", "weight": 9}, {"model": "pair", "failover": True}]},
        {"name": "pair", "fallback": ["b", "c"]},
    ]
    broken = [ScriptedEngine(name, script=[NoInstance("none")]) for name in ("a-1", "b-1")]
    async with built(models, a=broken[:1], b=broken[1:], c=[ScriptedEngine("c-1", script=["c"])]) as fleet:
        assert isinstance(fleet.models["mix"].source, Pool)
        assert (await fleet.ask("mix")).text == "c"
        assert fleet.fleet.ready


async def test_a_fallback_may_have_operators_of_its_own() -> None:
    engines = [ScriptedEngine(name, script=[NoInstance("none")]) for name in ("a-1", "b-1")]
    pipeline = [{"retry": {"attempts": 2, "base_s": 0.001}}]
    models = [{"name": "a"}, {"name": "b"}, {"name": "both", "fallback": ["a", "b"], "pipeline": pipeline}]
    async with built(models, a=engines[:1], b=engines[1:]) as fleet:
        with pytest.raises(NoInstance):
            await fleet.ask("both")
        assert [len(engine.requests) for engine in engines] == [2, 2]


ADAPTED = {"name": "a", "aliases": ["aa"], "adapters": [{"name": "sql", "path": "org/sql"}]}


async def test_an_adapter_is_a_model_of_its_own_over_the_instances_of_its_model() -> None:
    async with built([ADAPTED], a=[ScriptedEngine("a-1")]) as fleet:
        assert list(fleet.models) == ["a", "sql"]
        assert [(await fleet.ask(name)).model for name in ("a", "aa", "sql")] == ["a", "a", "sql"]
        assert [request.adapter for request in fleet.local._engines["a", "a-1"].requests] == [None, None, "sql"]
        card = fleet.models["sql"].card()
        assert (card.parent, card.aliases, card.ready, card.instances) == ("a", (), 1, 1)
        assert fleet.models["a"].card().parent is None
        assert [instance.id for instance in fleet.fleet.instances()] == ["a-1"]
        assert not fleet.models["sql"].is_remote


async def test_an_adapter_has_operators_of_its_own() -> None:
    """A breaker that opens for an adapter that cannot be loaded must not close its model."""

    def script(request: GenerateRequest) -> list[Any]:
        return [AdapterFailed("no") if request.adapter else "hello"]

    model = ADAPTED | {"pipeline": [{"breaker": {"failures": 1}}]}
    async with built([model], a=[ScriptedEngine("a-1", script=script)]) as fleet:
        with pytest.raises(AdapterFailed):
            await fleet.ask("sql")
        with pytest.raises(CircuitOpen):
            await fleet.ask("sql")
        assert (await fleet.ask("a")).text == "hello"
        assert {name for name, _ in fleet.reports} == {"sql"}


async def test_a_stream_of_an_adapter_goes_on_with_it() -> None:
    engines = [ScriptedEngine(name, script=["one ", InstanceLost("gone"), "two"]) for name in ("a-1", "a-2")]
    async with built([ADAPTED], a=engines) as fleet:
        answer = await fleet.ask("sql")
        assert (answer.text, answer.model) == ("one two", "sql")
        assert [request.adapter for engine in engines for request in engine.requests] == ["sql", "sql"]


async def test_a_fallback_may_be_made_of_an_adapter_and_its_model() -> None:
    def script(request: GenerateRequest) -> list[Any]:
        return [AdapterFailed("no") if request.adapter else "the model"]

    models = [ADAPTED, {"name": "both", "fallback": ["sql", "a"]}]
    async with built(models, a=[ScriptedEngine("a-1", script=script)]) as fleet:
        answer = await fleet.ask("both")
        assert (answer.text, answer.model) == ("the model", "a")
