"""A client that holds its output to what is meant to stall the engine stalls nobody else, and the engine stays."""

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from engines.errors import InvalidRequest, PenstockError, QueueFull, Unsupported
from engines.requests import Guided
from engines.vllm.engine import VllmEngine
from tests.benchmarks import hostile
from tests.contract.asking import eventually
from tests.engines.vllm.asking import WEATHER, answer, ask, chat, still_serves
from tests.lazily import lazily, needs

needs("vllm", "it holds its output to constraints")

grammars = lazily("engines.vllm.grammars")

pytestmark = pytest.mark.asyncio(loop_scope="session")

AMBIGUOUS = 'root ::= a\na ::= a a a | a a | "a" | "aa" | ""'
OWN_S = 3.0
"""For a guided request of somebody else: 1.5 s on a machine that does nothing else."""


def guided(**constraint: Any) -> Any:
    return chat("hello", sampling={"guided": constraint, "max_tokens": 16})


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        ({"json_schema": {"enum": [f"value {number}" for number in range(100_000)]}}, "more than 2,000 values"),
        ({"choice": [f"choice {number}" for number in range(100_000)]}, "100,000 choices"),
        ({"json_schema": hostile.HOSTILE["anyOf, doubled 10 times"]("x" * 50)["json_schema"]}, "longer than|values"),
        ({"json_schema": {"type": "string", "pattern": "(((a{1,30}){1,30}){1,30}){1,30}"}}, "for each token"),
        ({"regex": "((a*)*)*b"}, "for each token"),
        ({"regex": "(a|aa)+" * 200}, "for each token"),
        ({"regex": "(((a{1,300}){1,300}){1,300}){1,300}"}, "for each token"),
        ({"regex": "a" * 100_000}, "longer than 16,384 bytes"),
        ({"grammar": AMBIGUOUS}, "for each token"),
        ({"grammar": 'root ::= a\na ::= a a | "a"'}, "for each token"),
    ],
)
async def test_it_is_refused_and_told_why(vllm_engine: VllmEngine, constraint: dict[str, Any], why: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(InvalidRequest, match=why) as refused:
        await ask(vllm_engine, guided(**constraint))
    first_s = time.monotonic() - began_s
    assert refused.value.param == f"sampling.guided.{next(iter(constraint))}"
    # What was found is remembered.
    began_s = time.monotonic()
    with pytest.raises(InvalidRequest, match=why):
        await ask(vllm_engine, guided(**constraint))
    assert time.monotonic() - began_s < max(0.5, first_s)
    await still_serves(vllm_engine)


@pytest.mark.parametrize(
    "constraint",
    [
        {"json_schema": {"enum": [f"value {number}" for number in range(1000)]}},
        {"json_schema": {"type": "array", "items": {"type": "string", "maxLength": 200}, "minItems": 2}},
        {"json_schema": {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}},
        {"json_object": True},
        {"regex": r"[\w\s]{0,200}"},
        {"regex": r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}"},
        {"choice": ['"', "\\", "a\nb", "\u20ac", ""]},
        {"grammar": 'start: "a" | "b"'},
        {"structural_tag": json.dumps({"type": "structural_tag", "format": {"type": "regex", "pattern": "[0-9]+"}})},
    ],
)
async def test_what_is_ordinary_is_answered(vllm_engine: VllmEngine, constraint: dict[str, Any]) -> None:
    await ask(vllm_engine, guided(**constraint))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    ],
    ids=["itself", "each other", "either"],
)
async def test_a_schema_that_only_refers_to_itself_is_its_callers_mistake(
    vllm_engine: VllmEngine, schema: dict[str, Any]
) -> None:
    # An engine's own failure counts against it: a circuit breaker would keep everybody out.
    with pytest.raises(InvalidRequest, match="nothing fits") as refused:
        await ask(vllm_engine, guided(json_schema=schema))
    assert refused.value.param == "sampling.guided.json_schema"
    await still_serves(vllm_engine)


async def test_a_schema_elsewhere_is_not_fetched(vllm_engine: VllmEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        for url in (f"http://127.0.0.1:{elsewhere.getsockname()[1]}/schema.json", "file:///etc/passwd"):
            # It is no constraint, then: xgrammar takes it for any JSON.
            await ask(vllm_engine, guided(json_schema={"$ref": url}))
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


async def test_tools_pass_the_same_way(vllm_engine: VllmEngine) -> None:
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["strict"] = True
    tool["function"]["parameters"]["properties"]["city"] = {"type": "string", "pattern": "((a*)*)*b"}
    tool["function"]["parameters"]["additionalProperties"] = False
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, chat("weather in Paris?", tools=[tool], tool_choice="required"))
    assert refused.value.param == "tools"
    await still_serves(vllm_engine)


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        ({"grammar": 'root ::= "a"'}, "sampling.guided.grammar"),
        (
            {"structural_tag": json.dumps({"format": {"type": "grammar", "grammar": 'root ::= "a"'}})},
            "sampling.guided.structural_tag",
        ),
    ],
)
async def test_free_grammars_are_off_unless_they_are_turned_on(constraint: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported, match="free_grammars: true") as refused:
        grammars.check_free(Guided(**constraint), field)
    assert refused.value.param == field
    grammars.check_free(Guided(regex="a"), "sampling.guided.regex")
    grammars.check_free(Guided(structural_tag='{"format": {"type": "regex", "pattern": "a"}}'), field)


@pytest.mark.parametrize(
    "kind",
    [
        "enum of 100,000",
        "object of 1,000 properties",
        "a pattern in a schema, (a+)+ alike",
        "regex ((a*)*)*b",
        "ambiguous grammar",
    ],
)
async def test_others_go_on(vllm_engine: VllmEngine, kind: str) -> None:
    quiet = await hostile.run(vllm_engine, hostile.HOSTILE["nothing"], seconds=2.0)
    seen = await hostile.run(vllm_engine, hostile.HOSTILE[kind], in_flight=8, seconds=4.0)
    # As far as the machine allows: tests share it with others.
    slack = 3.0
    assert max(seen.new_s) < OWN_S + slack * max(quiet.new_s)
    assert max(seen.known_s) < OWN_S + slack * max(quiet.known_s)
    assert seen.pause_s < 1.0 + slack * quiet.pause_s
    await still_serves(vllm_engine)


async def test_a_helper_that_is_killed_is_started_again(vllm_engine: VllmEngine) -> None:
    runtime: Any = vllm_engine._boot.runtime
    helper = runtime._grammars._helper
    before = helper._number
    running = asyncio.create_task(ask(vllm_engine, guided(regex="killed((a*)*)*b")))
    await eventually(lambda: helper._number > before)
    helper._process.kill()
    with pytest.raises(PenstockError) as refused:
        await running
    assert isinstance(refused.value, (QueueFull, InvalidRequest))
    await eventually(lambda: helper._reading.done())
    assert (await answer(vllm_engine, guided(regex="again[0-9]"))).text.startswith("again")
